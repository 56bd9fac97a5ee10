// Duties on demand: `call tasker.run_duty(name)` here and now, or by the worker at once.
#include "partition/call_steps.hpp"
#include "pg/function.hpp"
#include "worker/duty.hpp"

namespace tasker::worker {
namespace {

const Duty &duty_named(std::string_view name)
{
    const int index = find_duty(name);
    if (index < 0)
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "duty \"%.*s\" does not exist",
                        static_cast<int>(name.size()), name.data())
            .hint("View tasker.duty_status lists the duties.");
    return duties()[static_cast<size_t>(index)];
}

} // namespace

TASKER_FUNCTION(run_duty)
{
    const Duty &duty = duty_named(args.text(0, "name"));
    partition::CallSteps steps(args, "tasker.run_duty()");
    duty.run(steps);
    return args.null();
}

TASKER_FUNCTION(request_duty)
{
    const Duty &duty = duty_named(args.text(0, "name"));
    return args.result(request_duty(duty.name));
}

} // namespace tasker::worker
