// The cache of compiled templates, by uuid and by name.
#include "workflow/template.hpp"

#include "pg/invalidation.hpp"
#include "pg/spi.hpp"
#include "workflow/ids.hpp"
#include "workflow/template_compile.hpp"
#include "workflow/template_memory.hpp"

namespace tasker::workflow {
namespace {

pg::TableWatch watch("named_tasks");
RetiredMemory retired;

// Which version of the row in tasker.named_tasks it was compiled from.
struct RowVersion
{
    TransactionId xmin;
    ItemPointerData place;

    bool operator==(const RowVersion &other) const
    {
        return xmin == other.xmin &&
               ItemPointerEquals(const_cast<ItemPointer>(&place), const_cast<ItemPointer>(&other.place));
    }
};

struct ById
{
    core::Uuid named_task_uuid;
    Template *compiled;
    MemoryContext memory;
    RowVersion row;
    uint64 generation; // of the watch when the row was read
};

// Names as bytes, filled up with zeros; no version stands for the youngest.
struct NameKey
{
    char namespace_name[kMaxNameBytes];
    char name[kMaxNameBytes];
    char version[kMaxNameBytes];
};

struct ByName
{
    NameKey key;
    core::Uuid named_task_uuid;
    uint64 generation;
};

HTAB *by_id = nullptr;
HTAB *by_name = nullptr;

HTAB *new_table(const char *name, Size key, Size entry)
{
    return pg::pg_call([&] {
        HASHCTL control{};
        control.keysize = key;
        control.entrysize = entry;
        return hash_create(name, 64, &control, HASH_ELEM | HASH_BLOBS);
    });
}

// Called before a table is read. Returns the generation that what is read belongs to.
uint64 begin_reading()
{
    if (by_id == nullptr)
        by_id = new_table("tasker templates by uuid", sizeof(core::Uuid), sizeof(ById));
    if (by_name == nullptr)
        by_name = new_table("tasker templates by name", sizeof(NameKey), sizeof(ByName));
    retired.free_earlier();
    if (!watch.holds())
        watch.begin();
    return watch.generation();
}

RowVersion version_of(const pg::Rows &rows)
{
    RowVersion version{};
    version.xmin = DatumGetTransactionId(rows.datum(0, 1));
    version.place = *reinterpret_cast<ItemPointer>(DatumGetPointer(rows.datum(0, 2)));
    return version;
}

[[noreturn]] void unknown_template(const core::Uuid &named_task_uuid)
{
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "named task %s does not exist", text_of(named_task_uuid));
}

// Fills in what stands in tasker.named_steps.
void take_rows(Template &compiled, const pg::Rows &rows)
{
    bool fits = rows.count() == static_cast<uint64>(compiled.step_count);
    for (int32_t i = 0; fits && i < compiled.step_count; i++) {
        StepTemplate &step = compiled.steps[i];
        const auto row = static_cast<uint64>(i);
        step.named_step_uuid = uuid_of(rows.datum(row, 1));
        step.flow_id = rows.i32(row, 3);
        fits =
            rows.text(row, 2) == step.name &&
            step.named_step_uuid == core::step_uuid(compiled.named_task_uuid, static_cast<uint32_t>(i + 1));
    }
    if (!fits)
        throw pg::Error(ERRCODE_DATA_CORRUPTED, "task \"%s/%s\" does not have the steps of its definition",
                        compiled.namespace_name, compiled.name)
            .detail("Rows of tasker.named_steps for %s were changed.", text_of(compiled.named_task_uuid));
}

// Compiles the template from its rows. Nothing is kept when it fails.
ById compile(pg::Spi &spi, const core::Uuid &named_task_uuid)
{
    static pg::Statement task("select t.xmin, t.ctid, n.name, t.name, t.version, t.configuration "
                              "from tasker.named_tasks t join tasker.task_namespaces n "
                              "using (task_namespace_uuid) where t.named_task_uuid = $1",
                              {UUIDOID});
    static pg::Statement steps("select named_step_uuid, name, flow_id from tasker.named_steps "
                               "where named_task_uuid = $1 order by step_order",
                               {UUIDOID});
    const pg::Param id = pg::Param::of_datum(datum_of(named_task_uuid));
    const pg::Rows row = spi.read_latest(task, {id});
    if (row.empty())
        unknown_template(named_task_uuid);

    ById entry{};
    entry.named_task_uuid = named_task_uuid;
    entry.row = version_of(row);
    entry.memory = new_memory("tasker template");
    const std::string_view namespace_name = row.text(0, 3);
    const std::string_view name = row.text(0, 4);
    const std::string_view version = row.text(0, 5);
    const Datum configuration = row.datum(0, 6);
    entry.compiled = pg::pg_call([&] {
        return compile_template(DatumGetJsonbP(configuration), namespace_name, name, version, entry.memory);
    });
    entry.compiled->named_task_uuid = named_task_uuid;
    take_rows(*entry.compiled, spi.read_latest(steps, {id}));
    keep_memory(entry.memory);
    return entry;
}

bool is_unchanged(pg::Spi &spi, const ById &entry)
{
    static pg::Statement task("select xmin, ctid from tasker.named_tasks where named_task_uuid = $1",
                              {UUIDOID});
    const pg::Rows row = spi.read_latest(task, {pg::Param::of_datum(datum_of(entry.named_task_uuid))});
    return !row.empty() && version_of(row) == entry.row;
}

ById *find(const core::Uuid &named_task_uuid)
{
    return static_cast<ById *>(hash_search(by_id, &named_task_uuid, HASH_FIND, nullptr));
}

const Template &read_template(const core::Uuid &named_task_uuid)
{
    const uint64 generation = begin_reading();
    pg::Spi spi;
    if (ById *entry = find(named_task_uuid)) {
        if (is_unchanged(spi, *entry)) {
            entry->generation = generation;
            return *entry->compiled;
        }
        retired.add(entry->memory);
        hash_search(by_id, &named_task_uuid, HASH_REMOVE, nullptr);
    }
    ById fresh = compile(spi, named_task_uuid);
    fresh.generation = generation;
    pg::pg_call(
        [&] { *static_cast<ById *>(hash_search(by_id, &named_task_uuid, HASH_ENTER, nullptr)) = fresh; });
    return *fresh.compiled;
}

void put(char (&bytes)[kMaxNameBytes], std::string_view name)
{
    memcpy(bytes, name.data(), name.size());
}

// The uuid of the template of that name; it is in the cache, or in the table.
std::optional<core::Uuid> read_name(std::string_view namespace_name, std::string_view name,
                                    std::optional<std::string_view> version)
{
    static pg::Statement task(
        "select t.named_task_uuid from tasker.named_tasks t join tasker.task_namespaces n "
        "using (task_namespace_uuid) where n.name = $1 and t.name = $2 and ($3 is null or t.version = $3) "
        "order by t.created_at desc, t.named_task_uuid desc limit 1",
        {TEXTOID, TEXTOID, TEXTOID});
    pg::Spi spi;
    const pg::Rows row = spi.read_latest(task, {namespace_name, name, version});
    return row.empty() ? std::nullopt : std::optional(uuid_of(row.datum(0, 1)));
}

[[noreturn]] void unknown_name(std::string_view namespace_name, std::string_view name,
                               std::optional<std::string_view> version)
{
    if (version && read_name(namespace_name, name, std::nullopt))
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "task \"%.*s/%.*s\" has no version \"%.*s\"",
                        static_cast<int>(namespace_name.size()), namespace_name.data(),
                        static_cast<int>(name.size()), name.data(), static_cast<int>(version->size()),
                        version->data())
            .hint("Versions are listed in tasker.task_templates.");
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "task \"%.*s/%.*s\" does not exist",
                    static_cast<int>(namespace_name.size()), namespace_name.data(),
                    static_cast<int>(name.size()), name.data())
        .hint("Define it with tasker.define_task().");
}

} // namespace

const Template &template_with_id(const core::Uuid &named_task_uuid)
{
    if (by_id != nullptr && watch.holds()) {
        const ById *entry = find(named_task_uuid);
        if (entry != nullptr && entry->generation == watch.generation())
            return *entry->compiled;
    }
    return read_template(named_task_uuid);
}

const Template &template_named(std::string_view namespace_name, std::string_view name,
                               std::optional<std::string_view> version)
{
    if (std::max({namespace_name.size(), name.size(), version.value_or("").size()}) > kMaxNameBytes ||
        (version && version->empty()))
        unknown_name(namespace_name, name, version);
    NameKey key{};
    put(key.namespace_name, namespace_name);
    put(key.name, name);
    put(key.version, version.value_or(""));
    if (by_name != nullptr && watch.holds()) {
        const auto *entry = static_cast<ByName *>(hash_search(by_name, &key, HASH_FIND, nullptr));
        if (entry != nullptr && entry->generation == watch.generation())
            return template_with_id(entry->named_task_uuid);
    }
    const uint64 generation = begin_reading();
    const std::optional<core::Uuid> found = read_name(namespace_name, name, version);
    if (!found)
        unknown_name(namespace_name, name, version);
    pg::pg_call([&] {
        *static_cast<ByName *>(hash_search(by_name, &key, HASH_ENTER, nullptr)) = {key, *found, generation};
    });
    return template_with_id(*found);
}

const StepTemplate *find_step(const Template &definition, const core::Uuid &named_step_uuid)
{
    const uint32_t number = core::step_number(named_step_uuid);
    if (number == 0 || number > static_cast<uint32_t>(definition.step_count))
        return nullptr;
    const StepTemplate &step = definition.steps[number - 1];
    return step.named_step_uuid == named_step_uuid ? &step : nullptr;
}

} // namespace tasker::workflow
