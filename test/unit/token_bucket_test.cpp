#include "core/token_bucket.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tasker::core {
namespace {

constexpr int64_t kNow = 1'795'237'505'123'456;

TokenBucket empty_bucket(int64_t now_us)
{
    return {0.0, now_us};
}

TEST(TokenBucket, ZeroedMemoryIsAFullBucket)
{
    TokenBucket bucket{};
    EXPECT_EQ(bucket.available(50, TokenBucket::burst_of(50), kNow), 50);
}

TEST(TokenBucket, BurstIsOneSecondButAtLeastOneToken)
{
    EXPECT_EQ(TokenBucket::burst_of(50), 50.0);
    EXPECT_EQ(TokenBucket::burst_of(0.1), 1.0);
    EXPECT_EQ(TokenBucket::burst_of(-3), 1.0);
    EXPECT_EQ(TokenBucket::burst_of(std::numeric_limits<double>::quiet_NaN()), 1.0);
}

TEST(TokenBucket, FillsEvenlyUpToTheBurst)
{
    TokenBucket bucket = empty_bucket(kNow);
    EXPECT_EQ(bucket.available(10, 10, kNow), 0);
    EXPECT_EQ(bucket.available(10, 10, kNow + 99'999), 0);
    EXPECT_EQ(bucket.available(10, 10, kNow + 100'000), 1);
    EXPECT_EQ(bucket.available(10, 10, kNow + 550'000), 5);
    EXPECT_EQ(bucket.available(10, 10, kNow + 60'000'000), 10);
}

TEST(TokenBucket, AskingTwiceChangesNothing)
{
    TokenBucket bucket = empty_bucket(kNow);
    EXPECT_EQ(bucket.available(10, 10, kNow + 250'000), 2);
    const TokenBucket before = bucket;
    EXPECT_EQ(bucket.available(10, 10, kNow + 250'000), 2);
    EXPECT_EQ(bucket.tokens, before.tokens);
    EXPECT_EQ(bucket.last_us, before.last_us);
}

TEST(TokenBucket, TakesAndGivesBack)
{
    TokenBucket bucket{10.0, kNow};
    bucket.take(7);
    EXPECT_EQ(bucket.available(10, 10, kNow), 3);
    bucket.give_back(4);
    EXPECT_EQ(bucket.available(10, 10, kNow), 7);
    bucket.give_back(100);
    EXPECT_EQ(bucket.available(10, 10, kNow), 10);
}

TEST(TokenBucket, TakingTooMuchLeavesADebt)
{
    TokenBucket bucket{2.0, kNow};
    bucket.take(5);
    EXPECT_EQ(bucket.available(10, 10, kNow), 0);
    EXPECT_EQ(bucket.us_until(1, 10, 10, kNow), 400'000);
    EXPECT_EQ(bucket.available(10, 10, kNow + 400'000), 1);
}

TEST(TokenBucket, TellsHowLongToWait)
{
    const TokenBucket bucket = empty_bucket(kNow);
    EXPECT_EQ(bucket.us_until(0, 10, 10, kNow), 0);
    EXPECT_EQ(bucket.us_until(-3, 10, 10, kNow), 0);
    EXPECT_EQ(bucket.us_until(1, 10, 10, kNow), 100'000);
    EXPECT_EQ(bucket.us_until(1, 10, 10, kNow + 60'000), 40'000);
    EXPECT_EQ(bucket.us_until(1, 10, 10, kNow + 200'000), 0);
    EXPECT_EQ(bucket.us_until(1, 3, 3, kNow), 333'334);
    EXPECT_EQ(bucket.us_until(50, 10, 10, kNow), 1'000'000); // as many as can gather
    EXPECT_EQ(bucket.us_until(1, 0.001, 1, kNow), 1'000'000'000);
    EXPECT_EQ(bucket.us_until(1, 1e-300, 1, kNow), kInt64Max);
}

TEST(TokenBucket, NoRateNoToken)
{
    for (const double rate : {0.0, -5.0, std::numeric_limits<double>::quiet_NaN()}) {
        TokenBucket bucket{5.0, kNow};
        EXPECT_EQ(bucket.available(rate, TokenBucket::burst_of(rate), kNow + 10'000'000), 0);
        EXPECT_EQ(bucket.us_until(1, rate, TokenBucket::burst_of(rate), kNow), kInt64Max);
    }
}

TEST(TokenBucket, AClockThatStepsBackFillsNothingAndStallsNothing)
{
    TokenBucket bucket = empty_bucket(kNow);
    EXPECT_EQ(bucket.available(10, 10, kNow + 300'000), 3);
    EXPECT_EQ(bucket.available(10, 10, kNow - 3'600'000'000), 3);
    EXPECT_EQ(bucket.us_until(4, 10, 10, kNow - 3'600'000'000), 100'000);
    EXPECT_EQ(bucket.available(10, 10, kNow - 3'600'000'000 + 100'000), 4);
}

TEST(TokenBucket, SurvivesExtremes)
{
    TokenBucket bucket{0.0, kInt64Min};
    const double infinity = std::numeric_limits<double>::infinity();
    EXPECT_EQ(bucket.available(1, 1, kInt64Max), 1);
    EXPECT_EQ(bucket.available(1, 1, kInt64Min), 1);
    EXPECT_EQ(bucket.available(infinity, infinity, kNow), kInt64Max);
    EXPECT_EQ(bucket.us_until(kInt64Max, infinity, infinity, kNow), 0);
    bucket = empty_bucket(kNow);
    bucket.take(kInt64Max);
    EXPECT_EQ(bucket.us_until(kInt64Max, 1e-3, 1e300, kNow), kInt64Max);
}

TEST(TokenBucket, ARateThatChangesCountsFromThenOn)
{
    TokenBucket bucket = empty_bucket(kNow);
    EXPECT_EQ(bucket.available(10, 10, kNow + 500'000), 5);
    EXPECT_EQ(bucket.available(100, 100, kNow + 600'000), 15);
    EXPECT_EQ(bucket.available(2, 2, kNow + 600'000), 2); // a smaller burst keeps no more
}

TEST(TokenBucket, NeverLetsMoreThroughThanBurstAndRate)
{
    test::Random random(9);
    for (int run = 0; run < 50; ++run) {
        const double rate = std::exp(random.uniform01() * 14 - 2); // 0.1 to 160,000 a second
        const double burst = TokenBucket::burst_of(rate);
        TokenBucket bucket{burst, kNow};
        int64_t now_us = kNow;
        int64_t passed_us = 0;
        int64_t through = 0;
        for (int i = 0; i < 3000; ++i) {
            const int64_t step =
                random.one_in(30) ? -random.between(0, 5'000'000) : random.between(0, 200'000);
            now_us += step;
            passed_us += std::max<int64_t>(step, 0);
            const int64_t there = bucket.available(rate, burst, now_us);
            ASSERT_LE(there, static_cast<int64_t>(burst) + 1);
            const int64_t n = random.between(0, there);
            bucket.take(n);
            const int64_t unused = random.between(0, n);
            bucket.give_back(unused);
            through += n - unused;
            ASSERT_LE(static_cast<double>(through),
                      burst + rate * static_cast<double>(passed_us) / 1e6 + 1e-3);
        }
    }
}

TEST(TokenBucket, AGreedyTakerGetsTheWholeRate)
{
    for (const double rate : {0.7, 3.0, 10.0, 999.0, 123'456.0}) {
        TokenBucket bucket = empty_bucket(kNow);
        const double burst = TokenBucket::burst_of(rate);
        int64_t through = 0;
        for (int64_t at = 0; at <= 100 * kUsPerSecond; at += 9'973) {
            const int64_t there = bucket.available(rate, burst, kNow + at);
            bucket.take(there);
            through += there;
        }
        EXPECT_NEAR(static_cast<double>(through), rate * 100, rate * 0.01 + 1) << rate;
    }
}

TEST(TokenBucket, TheWaitIsEnoughAndNotTooLong)
{
    test::Random random(10);
    for (int i = 0; i < 100'000; ++i) {
        const double rate = std::exp(random.uniform01() * 14 - 2);
        const double burst = TokenBucket::burst_of(rate);
        const TokenBucket bucket{random.uniform01() * (burst + 3) - 3, kNow};
        const int64_t now_us = kNow + random.between(-1000, 1'000'000);
        const int64_t n = random.between(1, static_cast<int64_t>(burst));
        const int64_t wait = bucket.us_until(n, rate, burst, now_us);
        TokenBucket later = bucket;
        later.available(rate, burst, now_us); // as the caller does before it waits
        TokenBucket sooner = later;
        ASSERT_GE(later.available(rate, burst, now_us + wait), n) << rate << " " << bucket.tokens;
        const int64_t margin = 2 + static_cast<int64_t>(2 / rate); // two millionths of a token
        if (wait > margin) {
            ASSERT_LT(sooner.available(rate, burst, now_us + wait - margin), n)
                << rate << " " << bucket.tokens;
        }
    }
}

} // namespace
} // namespace tasker::core
