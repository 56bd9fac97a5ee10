// The stream's part of tasker.metrics().
#include "pg/function.hpp"
#include "stream/state.hpp"

namespace tasker::stream {
namespace {

struct Metric
{
    const char *name;
    const char *help;
    const char *type;
};

constexpr const char *kGauge = "gauge";
constexpr Metric kQueues{"tasker_stream_queues", "Event queues", kGauge};
constexpr Metric kEvents{"tasker_stream_events_total", "Events inserted into a queue, by the ids given out",
                         "counter"};
constexpr Metric kTickerLag{"tasker_stream_ticker_lag_seconds",
                            "Age of a queue's last tick while events wait for the next one", kGauge};
constexpr Metric kDeferrals{"tasker_stream_rotation_deferrals",
                            "Rotations of a queue's event tables put off in a row", kGauge};
constexpr Metric kConsumerLag{"tasker_stream_consumer_lag_seconds",
                              "Age of a consumer's position while it has something to read", kGauge};
constexpr Metric kPending{"tasker_stream_consumer_pending_events",
                          "Events after a consumer's position, by the ids given out", kGauge};
constexpr Metric kMetadataDeferrals{"tasker_stream_metadata_rotation_deferrals",
                                    "Rotations of the tables of subscriptions and of ticks put off in a row",
                                    kGauge};

// Plain C: may ereport.
void push(JsonbParseState **state, JsonbIteratorToken token, const char *text)
{
    JsonbValue value;
    value.type = jbvString;
    value.val.string.val = const_cast<char *>(text);
    value.val.string.len = static_cast<int>(strlen(text));
    (void)pushJsonbValue(state, token, &value);
}

// {"key": "value", ...}; the second pair may be left out.
Datum labels(const char *key1 = nullptr, const char *value1 = nullptr, const char *key2 = nullptr,
             const char *value2 = nullptr)
{
    return pg::pg_call([&] {
        JsonbParseState *state = nullptr;
        (void)pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
        if (key1 != nullptr) {
            push(&state, WJB_KEY, key1);
            push(&state, WJB_VALUE, value1);
        }
        if (key2 != nullptr) {
            push(&state, WJB_KEY, key2);
            push(&state, WJB_VALUE, value2);
        }
        return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr)));
    });
}

// The texts of a metric are made once.
class MetricRows
{
  public:
    MetricRows(pg::ResultSet &result, const Metric &metric) : result_(result)
    {
        pg::pg_call([&] {
            name_ = CStringGetTextDatum(metric.name);
            help_ = CStringGetTextDatum(metric.help);
            type_ = CStringGetTextDatum(metric.type);
        });
    }

    void add(Datum label, double value)
    {
        const Datum number = pg::pg_call([&] { return Float8GetDatum(value); });
        const Datum values[5] = {name_, label, number, help_, type_};
        const bool nulls[5] = {};
        result_.add(values, nulls);
    }

  private:
    pg::ResultSet &result_;
    Datum name_;
    Datum help_;
    Datum type_;
};

double seconds(int64_t us)
{
    return static_cast<double>(us) / USECS_PER_SEC;
}

void add_queues(pg::ResultSet &result, const StreamState &state, TimestampTz now)
{
    MetricRows events(result, kEvents);
    MetricRows lag(result, kTickerLag);
    MetricRows deferrals(result, kDeferrals);
    for (const QueueState &queue : state.queues) {
        const Datum label = labels("queue", queue.name);
        events.add(label, static_cast<double>(queue.event_seq));
        lag.add(label, seconds(ticker_lag_us(queue, now)));
        deferrals.add(label, static_cast<double>(queue.deferrals));
    }
}

void add_consumers(pg::ResultSet &result, const StreamState &state, TimestampTz now)
{
    MetricRows lag(result, kConsumerLag);
    MetricRows pending(result, kPending);
    for (const ConsumerState &consumer : state.consumers) {
        if (!consumer.tick)
            continue; // a member of a cooperative consumer has no position of its own
        const Datum label = labels("consumer", consumer.name, "queue", consumer.queue->name);
        lag.add(label, seconds(consumer_lag_us(consumer, now)));
        pending.add(label, static_cast<double>(pending_events(consumer)));
    }
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// _stream_metrics()
TASKER_FUNCTION(stream_metrics)
{
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    StreamState state(&memory);
    read_state(state);
    const TimestampTz now = GetCurrentTimestamp();
    MetricRows(result, kQueues).add(labels(), static_cast<double>(state.queues.size()));
    add_queues(result, state, now);
    add_consumers(result, state, now);
    MetricRows deferrals(result, kMetadataDeferrals);
    deferrals.add(labels("tables", "subscription"), static_cast<double>(state.subscription_deferrals));
    deferrals.add(labels("tables", "tick"), static_cast<double>(state.tick_deferrals));
    return 0;
}
