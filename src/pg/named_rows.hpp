// The rows of a table of ours that have a name and a number, cached in the backend until the table changes.
#pragma once

#include "pg/invalidation.hpp"

namespace tasker::pg {

// Row is trivially copyable and has `char name[]`; `id` says which member is its number. Define as a static
// object.
template <class Row, int32_t Row::*id> class NamedRows
{
    static constexpr size_t kNameBytes = sizeof(Row::name);
    static_assert(std::is_trivially_copyable_v<Row>);

  public:
    constexpr explicit NamedRows(const char *table) : watch_(table) {}

    TableWatch &watch() { return watch_; }

    // Null when it is not cached.
    const Row *find(std::string_view name)
    {
        if (!watch_.holds() || name.size() >= kNameBytes)
            return nullptr;
        char key[kNameBytes] = {};
        memcpy(key, name.data(), name.size());
        auto *entry = static_cast<ByName *>(hash_search(by_name_, key, HASH_FIND, nullptr));
        return entry != nullptr ? &entry->row : nullptr;
    }

    const Row *find(int32_t number)
    {
        if (!watch_.holds())
            return nullptr;
        auto *entry = static_cast<ById *>(hash_search(by_id_, &number, HASH_FIND, nullptr));
        return entry != nullptr ? &entry->row : nullptr;
    }

    // Called before the table is read: empties what does not hold any more.
    void begin()
    {
        if (watch_.holds())
            return;
        pg_call([&] {
            empty(&by_name_, "tasker rows by name", kNameBytes, sizeof(ByName), HASH_STRINGS);
            empty(&by_id_, "tasker rows by number", sizeof(int32_t), sizeof(ById), HASH_BLOBS);
        });
        watch_.begin();
    }

    // Keeps a row, unless the table changed while it was being read.
    void keep(const Row &row)
    {
        if (!watch_.holds())
            return;
        pg_call([&] {
            bool found = false;
            int32_t number = row.*id;
            static_cast<ByName *>(hash_search(by_name_, row.name, HASH_ENTER, &found))->row = row;
            static_cast<ById *>(hash_search(by_id_, &number, HASH_ENTER, &found))->row = row;
        });
    }

  private:
    struct ByName
    {
        char name[kNameBytes];
        Row row;
    };
    struct ById
    {
        int32_t number;
        Row row;
    };

    static void empty(HTAB **table, const char *name, Size key, Size entry, int kind)
    {
        if (*table != nullptr)
            hash_destroy(std::exchange(*table, nullptr));
        HASHCTL control{};
        control.keysize = key;
        control.entrysize = entry;
        *table = hash_create(name, 64, &control, HASH_ELEM | kind);
    }

    TableWatch watch_;
    HTAB *by_name_ = nullptr;
    HTAB *by_id_ = nullptr;
};

} // namespace tasker::pg
