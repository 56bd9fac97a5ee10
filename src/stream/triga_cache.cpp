#include "pg/invalidation.hpp"
#include "stream/triga.hpp"

namespace tasker::stream::triga {
namespace {

// The triggers of one table.
struct Table
{
    Oid relid; // the key
    TriggerInfo *first;
};

// How many may have become stale before a look-up that misses frees those of tables that are gone.
constexpr int kStaleToSweep = 64;

HTAB *tables = nullptr;
uint64_t invalidations = 0; // counts those that this cache was told of
uint64_t all_stale_at = 0;  // what was built up to this count is stale
int stale_triggers = 0;

bool current(const TriggerInfo &trigger)
{
    return !trigger.stale && trigger.built > all_stale_at;
}

// The callbacks run at any time, between two allocations of a build too: they only mark.
void mark_all()
{
    all_stale_at = ++invalidations;
    stale_triggers = kStaleToSweep;
}

void on_relcache_invalidation(Oid relid)
{
    if (relid == InvalidOid)
        return mark_all();
    auto *table = static_cast<Table *>(hash_search(tables, &relid, HASH_FIND, nullptr));
    invalidations++;
    for (TriggerInfo *trigger = table == nullptr ? nullptr : table->first; trigger != nullptr;
         trigger = trigger->next) {
        stale_triggers += !trigger->stale;
        trigger->stale = true;
    }
}

pg::RelcacheListener listener(on_relcache_invalidation);

void on_namespace_invalidation(Datum, int, uint32)
{
    mark_all();
}

void begin_cache()
{
    HASHCTL control{};
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(Table);
    tables = hash_create("tasker tables with triggers", 64, &control, HASH_ELEM | HASH_BLOBS);
    listener.listen();
    CacheRegisterSyscacheCallback(NAMESPACEOID, on_namespace_invalidation, 0);
}

// Reports nothing, so that destructors may call it.
void destroy(TriggerInfo *trigger) noexcept
{
    for (const Expression &expression : trigger->expressions) {
        if (expression.plan != nullptr)
            SPI_freeplan(expression.plan);
    }
    MemoryContextDelete(trigger->context);
}

// Takes stale triggers out of a table's list, or only the one with that OID.
void drop_stale(Table *table, Oid only)
{
    TriggerInfo **link = &table->first;
    while (*link != nullptr) {
        TriggerInfo *trigger = *link;
        if (current(*trigger) || (OidIsValid(only) && trigger->oid != only)) {
            link = &trigger->next;
            continue;
        }
        *link = trigger->next;
        trigger->replaced = true;
        if (trigger->users == 0)
            destroy(trigger);
    }
}

void sweep()
{
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, tables);
    while (auto *table = static_cast<Table *>(hash_seq_search(&scan))) {
        drop_stale(table, InvalidOid);
        if (table->first == nullptr)
            (void)hash_search(tables, &table->relid, HASH_REMOVE, nullptr);
    }
    stale_triggers = 0;
}

// The numbers of the primary key's columns in their order in the key; how many there are.
int primary_key(Relation relation, AttrNumber *columns)
{
    int count = 0;
    List *indexes = RelationGetIndexList(relation);
    ListCell *cell;
    foreach (cell, indexes) {
        HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
        if (!HeapTupleIsValid(tuple))
            continue;
        auto *index = reinterpret_cast<Form_pg_index>(GETSTRUCT(tuple));
        // Columns after those of the key are only carried along (INCLUDE).
        for (int i = 0; index->indisprimary && i < index->indnkeyatts; i++)
            columns[count++] = index->indkey.values[i];
        ReleaseSysCache(tuple);
        if (count > 0)
            break;
    }
    list_free(indexes);
    return count;
}

// The number of the text that a magic column gives.
int magic_of(const char *name)
{
    static constexpr const char *kNames[kTextColumns] = {"_pgq_ev_type",   "_pgq_ev_data",
                                                         "_pgq_ev_extra1", "_pgq_ev_extra2",
                                                         "_pgq_ev_extra3", "_pgq_ev_extra4"};
    if (strncmp(name, "_pgq_ev_", strlen("_pgq_ev_")) != 0)
        return kNotMagic;
    for (int i = 0; i < kTextColumns; i++) {
        if (strcmp(name, kNames[i]) == 0)
            return i;
    }
    return kUnknownMagic;
}

// The column's name as the formats write it. Buffers are larger than what is kept.
void encode_name(Column *column, const char *name)
{
    StringInfoData buffer;
    initStringInfo(&buffer);
    append_json(&buffer, name);
    appendStringInfoChar(&buffer, ':');
    column->json = pstrdup(buffer.data);
    resetStringInfo(&buffer);
    append_url(&buffer, name);
    column->url = pstrdup(buffer.data);
    column->sql = quote_identifier(name);
    column->name = name;
    pfree(buffer.data);
}

void describe_column(TriggerInfo *trigger, Column *column, const FormData_pg_attribute &attribute, bool key)
{
    Oid output = InvalidOid;
    bool varlena = false;
    column->index = attribute.attnum - 1;
    column->type = attribute.atttypid;
    column->typmod = attribute.atttypmod;
    column->collation = attribute.attcollation;
    column->length = attribute.attlen;
    column->by_value = attribute.attbyval;
    getTypeOutputInfo(attribute.atttypid, &output, &varlena);
    fmgr_info_cxt(output, &column->output, trigger->context);
    encode_name(column, pstrdup(NameStr(attribute.attname)));

    column->magic = magic_of(column->name);
    column->left_out = column->magic != kNotMagic || (trigger->options.ignore != nullptr &&
                                                      list_names(trigger->options.ignore, column->name));
    column->key = key && column->magic == kNotMagic;
    trigger->has_magic |= column->magic != kNotMagic;
    trigger->key_columns += column->key;
}

void describe_columns(TriggerInfo *trigger, Relation relation, std::span<const AttrNumber> key)
{
    TupleDesc descriptor = RelationGetDescr(relation);
    const char *list = trigger->options.key;
    trigger->attributes = descriptor->natts;
    trigger->column =
        static_cast<Column *>(palloc0(sizeof(Column) * static_cast<size_t>(std::max(descriptor->natts, 1))));
    for (int i = 0; i < descriptor->natts; i++) {
        const FormData_pg_attribute &attribute = *TupleDescAttr(descriptor, i);
        if (attribute.attisdropped)
            continue;
        const bool in_key = list != nullptr
                                ? list_names(list, NameStr(attribute.attname))
                                : std::find(key.begin(), key.end(), attribute.attnum) != key.end();
        describe_column(trigger, &trigger->column[trigger->columns++], attribute, in_key);
    }
}

// The names of the primary key's columns, as ev_type has them in each format.
void name_primary_key(Relation relation, std::span<const AttrNumber> key, StringInfo plain, StringInfo json)
{
    const char *comma = "";
    for (AttrNumber number : key) {
        const char *name = NameStr(TupleDescAttr(RelationGetDescr(relation), number - 1)->attname);
        appendStringInfo(plain, "%s%s", comma, name);
        appendStringInfoString(json, comma);
        append_json(json, name);
        comma = ",";
    }
}

// A list of pkey= is given as it stands: only its commas divide it.
void name_given_key(const char *list, StringInfo plain, StringInfo json)
{
    appendStringInfoString(plain, list);
    for (;;) {
        const char *comma = strchr(list, ',');
        append_json(json, comma == nullptr ? list : pnstrdup(list, static_cast<Size>(comma - list)));
        if (comma == nullptr)
            return;
        appendStringInfoChar(json, ',');
        list = comma + 1;
    }
}

void make_types(TriggerInfo *trigger, const char *schema, const char *table, const char *json_key)
{
    static constexpr const char *kNames[kOperations] = {"INSERT", "UPDATE", "DELETE", "TRUNCATE"};
    static constexpr const char *kLetters[kOperations] = {"I", "U", "D", "R"};
    for (int i = 0; i < kOperations; i++) {
        StringInfoData type;
        begin_text(&type);
        if (trigger->format == Format::json) {
            appendStringInfo(&type, "{\"op\":\"%s\",\"table\":[", kNames[i]);
            append_json(&type, schema);
            appendStringInfoChar(&type, ',');
            append_json(&type, table);
            appendStringInfo(&type, "],\"pkey\":[%s]}", json_key);
        } else {
            appendStringInfoString(&type, kLetters[i]);
            if (trigger->format == Format::url && i != kTruncate)
                appendStringInfo(&type, ":%s", trigger->key);
        }
        trigger->type_text[i] = datumCopy(finish_text(&type), false, -1);
        pfree(type.data);
    }
}

void describe_table(TriggerInfo *trigger, Relation relation)
{
    StringInfoData plain;
    StringInfoData json;
    AttrNumber columns[INDEX_MAX_KEYS];
    const std::span<const AttrNumber> key(columns, static_cast<size_t>(primary_key(relation, columns)));
    const char *schema = get_namespace_name(RelationGetNamespace(relation));
    const char *table = RelationGetRelationName(relation);

    if (schema == nullptr)
        throw pg::Error(ERRCODE_UNDEFINED_SCHEMA, "the schema of table \"%s\" does not exist", table);
    trigger->table = psprintf("%s.%s", schema, table);
    trigger->table_text = text_of(trigger->table);
    initStringInfo(&plain);
    initStringInfo(&json);
    if (trigger->options.key != nullptr)
        name_given_key(trigger->options.key, &plain, &json);
    else
        name_primary_key(relation, key, &plain, &json);
    trigger->key = pstrdup(plain.data);
    make_types(trigger, schema, table, json.data);
    pfree(plain.data);
    pfree(json.data);
    describe_columns(trigger, relation, key);
}

TriggerInfo *build(const TriggerData &call, Format format, Operation operation)
{
    MemoryContext outer = CurrentMemoryContext;
    MemoryContext context = AllocSetContextCreate(outer, "tasker trigger", ALLOCSET_SMALL_SIZES);
    MemoryContextSwitchTo(context);
    auto *trigger = static_cast<TriggerInfo *>(palloc0(sizeof(TriggerInfo)));
    trigger->oid = call.tg_trigger->tgoid;
    trigger->format = format;
    trigger->context = context;
    trigger->built = invalidations + 1;
    read_options(trigger, *call.tg_trigger, operation);
    describe_table(trigger, call.tg_relation);
    MemoryContextSwitchTo(outer);
    if (trigger->has_expressions)
        prepare_expressions(trigger);
    // An invalidation during the build may have been about this table: good for the row at hand only.
    trigger->stale = trigger->built != invalidations + 1;
    MemoryContextSetParent(context, CacheMemoryContext);
    return trigger;
}

} // namespace

InUse::~InUse()
{
    if (--trigger_->users == 0 && trigger_->replaced)
        destroy(trigger_);
}

TriggerInfo *find_trigger(const TriggerData &call, Format format, Operation operation)
{
    const Oid relid = RelationGetRelid(call.tg_relation);
    const Oid oid = call.tg_trigger->tgoid;
    if (tables == nullptr)
        begin_cache();
    AcceptInvalidationMessages(); // the schema is not locked with the table
    auto *table = static_cast<Table *>(hash_search(tables, &relid, HASH_FIND, nullptr));
    for (TriggerInfo *trigger = table == nullptr ? nullptr : table->first; trigger != nullptr;
         trigger = trigger->next) {
        if (trigger->oid == oid && current(*trigger))
            return trigger;
    }
    if (stale_triggers >= kStaleToSweep)
        sweep();
    bool found = false;
    TriggerInfo *trigger = build(call, format, operation);
    table = static_cast<Table *>(hash_search(tables, &relid, HASH_ENTER, &found));
    if (!found)
        table->first = nullptr;
    drop_stale(table, oid);
    trigger->next = table->first;
    table->first = trigger;
    return trigger;
}

} // namespace tasker::stream::triga
