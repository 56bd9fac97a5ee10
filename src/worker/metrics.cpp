// metrics_openmetrics(): the rows of tasker.metrics() in the text format that Prometheus and its like read.
#include "pg/function.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "lib/stringinfo.h"
}

namespace tasker::worker {
namespace {

constexpr std::string_view kCounterSuffix = "_total";

// A family's name: a counter's samples carry a suffix that its HELP and TYPE lines do not.
std::string_view family_of(std::string_view metric, std::string_view type)
{
    if (type == "counter" && metric.ends_with(kCounterSuffix))
        metric.remove_suffix(kCounterSuffix.size());
    return metric;
}

int length(std::string_view text)
{
    return static_cast<int>(text.size());
}

} // namespace

TASKER_FUNCTION(metrics_openmetrics)
{
    // Label values and help texts are escaped as the format asks: backslash, quote, line feed.
    static pg::Statement list(R"(
        select m.metric, m.type,
               pg_catalog.replace(pg_catalog.replace(m.help, '\', '\\'), E'\n', '\n'),
               coalesce('{' || (select pg_catalog.string_agg(l.key || '="' ||
                   pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(l.value, '\', '\\'), '"', '\"'),
                                      E'\n', '\n') || '"', ',' order by l.key)
                   from pg_catalog.jsonb_each_text(m.labels) l) || '}', ''),
               case m.value when 'Infinity' then '+Inf' when '-Infinity' then '-Inf'
                    else m.value::text end
        from tasker.metrics() m
        where m.value is not null
        order by m.metric collate "C", m.labels)",
                              {});
    StringInfoData text;
    pg::pg_call([&] { initStringInfo(&text); });
    {
        pg::Spi spi;
        const pg::Rows rows = spi.run(list);
        std::string_view previous;
        for (uint64 i = 0; i < rows.count(); i++) {
            const std::string_view metric = rows.text(i, 1);
            const std::string_view type = rows.text(i, 2);
            const std::string_view help = rows.text(i, 3);
            const std::string_view labels = rows.text(i, 4);
            const std::string_view value = rows.text(i, 5);
            const std::string_view family = family_of(metric, type);
            const bool first = metric != previous;
            pg::pg_call([&] {
                if (first)
                    appendStringInfo(&text, "# HELP %.*s %.*s\n# TYPE %.*s %.*s\n", length(family),
                                     family.data(), length(help), help.data(), length(family), family.data(),
                                     length(type), type.data());
                appendStringInfo(&text, "%.*s%.*s %.*s\n", length(metric), metric.data(), length(labels),
                                 labels.data(), length(value), value.data());
            });
            previous = metric;
        }
    }
    pg::pg_call([&] { appendStringInfoString(&text, "# EOF\n"); });
    return args.result(std::string_view(text.data, static_cast<size_t>(text.len)));
}

} // namespace tasker::worker
