#include "workflow/events.hpp"

namespace tasker::workflow {
namespace {

stream::LogWriter writer(kTransitionQueue);

} // namespace

void note_transitions_written(size_t transitions)
{
    writer.note(transitions);
}

} // namespace tasker::workflow
