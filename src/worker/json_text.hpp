// Writes JSON as text, escaped by Postgres, and hands it out as jsonb.
#pragma once

#include "pg/error.hpp"

extern "C" {
#include "lib/stringinfo.h"
#include "utils/json.h"
}

namespace tasker::worker {

class JsonText
{
  public:
    JsonText()
    {
        pg::pg_call([&] { initStringInfo(&text_); });
    }

    // In an object give the key, in an array null.
    JsonText &open_object(const char *key = nullptr) { return open(key, '{'); }
    JsonText &open_array(const char *key = nullptr) { return open(key, '['); }
    JsonText &close_object() { return close('}'); }
    JsonText &close_array() { return close(']'); }

    JsonText &add(const char *key, std::string_view value)
    {
        pg::pg_call([&] {
            start(key);
            escape_json(&text_, pnstrdup(value.data(), value.size()));
        });
        return *this;
    }
    JsonText &add(const char *key, const char *value) { return add(key, std::string_view(value)); }
    JsonText &add(const char *key, int64_t value)
    {
        pg::pg_call([&] {
            start(key);
            appendStringInfo(&text_, "%lld", static_cast<long long>(value));
        });
        return *this;
    }
    JsonText &add(const char *key, double value)
    {
        pg::pg_call([&] {
            start(key);
            appendStringInfo(&text_, "%.3f", value);
        });
        return *this;
    }
    JsonText &add(const char *key, bool value)
    {
        pg::pg_call([&] {
            start(key);
            appendStringInfoString(&text_, value ? "true" : "false");
        });
        return *this;
    }
    JsonText &add_null(const char *key)
    {
        pg::pg_call([&] {
            start(key);
            appendStringInfoString(&text_, "null");
        });
        return *this;
    }
    // A piece of JSON that was written before.
    JsonText &add_json(const char *key, const JsonText &value)
    {
        pg::pg_call([&] {
            start(key);
            appendBinaryStringInfo(&text_, value.text_.data, value.text_.len);
        });
        return *this;
    }

    Datum to_jsonb() const
    {
        return pg::pg_call([&] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(text_.data)); });
    }

  private:
    void start(const char *key)
    {
        if (text_.len > 0 && text_.data[text_.len - 1] != '{' && text_.data[text_.len - 1] != '[')
            appendStringInfoChar(&text_, ',');
        if (key != nullptr) {
            escape_json(&text_, key);
            appendStringInfoChar(&text_, ':');
        }
    }
    JsonText &open(const char *key, char bracket)
    {
        pg::pg_call([&] {
            start(key);
            appendStringInfoChar(&text_, bracket);
        });
        return *this;
    }
    JsonText &close(char bracket)
    {
        pg::pg_call([&] { appendStringInfoChar(&text_, bracket); });
        return *this;
    }

    StringInfoData text_;
};

} // namespace tasker::worker
