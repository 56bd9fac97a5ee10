#include "core/record_state.hpp"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace tasker::core {
namespace {

constexpr RecordStatus kNoStatus = static_cast<RecordStatus>('?');

TEST(RecordState, IndexAndStatusAreInverse)
{
    for (int index = 0; index < kStatusCount; ++index)
        EXPECT_EQ(status_index(status_at(index)), index);
    EXPECT_EQ(status_index(kNoStatus), -1);
    static_assert(status_at(0) == RecordStatus::pending);
}

TEST(RecordState, StoresTheCharactersOfTheTable)
{
    int known = 0;
    for (int byte = 0; byte < 256; ++byte) {
        const auto stored = static_cast<char>(byte);
        const std::optional<RecordStatus> status = status_from_char(stored);
        if (status) {
            EXPECT_EQ(static_cast<char>(*status), stored);
            ++known;
        }
    }
    EXPECT_EQ(known, kStatusCount);
    EXPECT_EQ(status_from_char('p'), RecordStatus::pending);
    EXPECT_EQ(status_from_char('r'), RecordStatus::processing);
    EXPECT_EQ(status_from_char('c'), RecordStatus::completed);
    EXPECT_EQ(status_from_char('f'), RecordStatus::failed);
    EXPECT_EQ(status_from_char('x'), RecordStatus::cancelled);
    EXPECT_EQ(status_from_char('\0'), std::nullopt);
}

TEST(RecordState, NamesAreTheWordsOfTheView)
{
    EXPECT_EQ(status_name(RecordStatus::pending), "pending");
    EXPECT_EQ(status_name(RecordStatus::processing), "processing");
    EXPECT_EQ(status_name(RecordStatus::completed), "completed");
    EXPECT_EQ(status_name(RecordStatus::failed), "failed");
    EXPECT_EQ(status_name(RecordStatus::cancelled), "cancelled");
    EXPECT_EQ(status_name(kNoStatus), "unknown");
    for (int index = 0; index < kStatusCount; ++index)
        EXPECT_EQ(status_from_name(status_name(status_at(index))), status_at(index));
    for (const char *wrong : {"", "p", "Pending", "pending ", "unknown", "canceled"})
        EXPECT_EQ(status_from_name(wrong), std::nullopt) << wrong;
}

TEST(RecordState, AllowsExactlyTheseTransitions)
{
    using enum RecordStatus;
    const std::set<std::pair<RecordStatus, RecordStatus>> legal = {
        {pending, processing}, {pending, cancelled},  {processing, completed},
        {processing, failed},  {processing, pending}, {failed, pending},
    };
    const RecordStatus all[] = {pending, processing, completed, failed, cancelled, kNoStatus};
    for (const RecordStatus from : all) {
        for (const RecordStatus to : all)
            EXPECT_EQ(is_legal_transition(from, to), legal.contains({from, to}))
                << status_name(from) << " -> " << status_name(to);
    }
}

TEST(RecordState, TerminalRecordsRest)
{
    EXPECT_FALSE(is_terminal(RecordStatus::pending));
    EXPECT_FALSE(is_terminal(RecordStatus::processing));
    EXPECT_TRUE(is_terminal(RecordStatus::completed));
    EXPECT_TRUE(is_terminal(RecordStatus::failed));
    EXPECT_TRUE(is_terminal(RecordStatus::cancelled));
    EXPECT_FALSE(is_terminal(kNoStatus)); // a damaged row must not let its partition go
}

TEST(RecordState, FailureRetriesWhileAttemptsAreLeft)
{
    for (int max_attempts = -1; max_attempts <= 5; ++max_attempts) {
        for (int made = 1; made <= 7; ++made) {
            const FailureOutcome outcome = outcome_of_failure(made, max_attempts);
            EXPECT_EQ(outcome.retry, made < max_attempts);
            EXPECT_EQ(outcome.status, outcome.retry ? RecordStatus::pending : RecordStatus::failed);
            EXPECT_TRUE(is_legal_transition(RecordStatus::processing, outcome.status));
        }
    }
}

} // namespace
} // namespace tasker::core
