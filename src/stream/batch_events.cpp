// get_batch_events(): the events of a batch, in the order of their ids.
#include "pg/function.hpp"
#include "stream/batch_reader.hpp"
#include "stream/row_sorter.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

// ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1 .. ev_extra4: a row without its owner.
class RowCollector final : public EventSink
{
  public:
    explicit RowCollector(RowSorter &rows) : rows_(rows) {}

    bool take(TupleTableSlot *slot) override
    {
        Datum values[kEvColumns - 1];
        bool nulls[kEvColumns - 1];
        slot_getsomeattrs(slot, kEvColumns);
        std::copy(slot->tts_values, slot->tts_values + kEvOwner - 1, values);
        std::copy(slot->tts_isnull, slot->tts_isnull + kEvOwner - 1, nulls);
        std::copy(slot->tts_values + kEvOwner, slot->tts_values + kEvColumns, values + kEvOwner - 1);
        std::copy(slot->tts_isnull + kEvOwner, slot->tts_isnull + kEvColumns, nulls + kEvOwner - 1);
        rows_.add(DatumGetInt64(values[0]), values, nulls);
        return true;
    }

  private:
    RowSorter &rows_;
};

} // namespace

// get_batch_events(x_batch_id)
TASKER_FUNCTION(get_batch_events)
{
    pg::ResultSet result(args.call());
    const BatchPlan plan = plan_of(args.i64(0, "x_batch_id"));
    RowSorter rows = pg::pg_call([&] { return RowSorter(result.descriptor()); });
    RowCollector collector(rows);
    read_batch(plan, collector);
    pg::pg_call([&] { rows.move_to(result); });
    return 0;
}
