#include "core/backoff.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tasker::core {
namespace {

using test::Int128;

constexpr BackoffPolicy kDefault{1 * kUsPerSecond, 60 * kUsPerSecond, 0.1};

TEST(Backoff, DoublesUpToTheCap)
{
    constexpr BackoffPolicy policy{1 * kUsPerSecond, 60 * kUsPerSecond, 0.0};
    static_assert(backoff_us(policy, 1, 0.3) == 1 * kUsPerSecond);
    const int64_t seconds[] = {1, 2, 4, 8, 16, 32, 60, 60, 60};
    for (int attempt = 1; attempt <= 9; ++attempt)
        EXPECT_EQ(backoff_us(policy, attempt, 0.77), seconds[attempt - 1] * kUsPerSecond) << attempt;
}

TEST(Backoff, SpreadsByTheJitter)
{
    EXPECT_EQ(backoff_us(kDefault, 3, 0.0), 3'600'000);
    EXPECT_EQ(backoff_us(kDefault, 3, 0.5), 4'000'000);
    EXPECT_EQ(backoff_us(kDefault, 3, 1.0), 4'400'000);
    EXPECT_EQ(backoff_us(kDefault, 10, 0.0), 54'000'000);
    EXPECT_EQ(backoff_us(kDefault, 10, 0.9), 60'000'000); // never past the cap
}

TEST(Backoff, TakesSenselessInputAsTheNearestSense)
{
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinity = std::numeric_limits<double>::infinity();
    EXPECT_EQ(backoff_us(kDefault, 0, 0.5), 1'000'000);
    EXPECT_EQ(backoff_us(kDefault, std::numeric_limits<int>::min(), 0.5), 1'000'000);
    EXPECT_EQ(backoff_us(kDefault, std::numeric_limits<int>::max(), 0.5), 60'000'000);
    EXPECT_EQ(backoff_us(kDefault, 3, nan), 4'000'000);
    EXPECT_EQ(backoff_us(kDefault, 3, -7.0), 3'600'000);
    EXPECT_EQ(backoff_us(kDefault, 3, infinity), 4'400'000);
    EXPECT_EQ(backoff_us({1'000'000, 60'000'000, nan}, 3, 0.0), 4'000'000);
    EXPECT_EQ(backoff_us({1'000'000, 60'000'000, -1.0}, 3, 0.0), 4'000'000);
    EXPECT_EQ(backoff_us({1'000'000, 60'000'000, infinity}, 3, 0.0), 0);
    EXPECT_EQ(backoff_us({1'000'000, 60'000'000, 9.0}, 3, 1.0), 8'000'000);
    EXPECT_EQ(backoff_us({-1, 60'000'000, 0.1}, 3, 0.5), 0);
    EXPECT_EQ(backoff_us({0, 60'000'000, 0.1}, 64, 0.5), 0);
    EXPECT_EQ(backoff_us({1'000'000, -1, 0.1}, 3, 0.5), 0);
    EXPECT_EQ(backoff_us({1'000'000, kInt64Min, 1.0}, 3, 1.0), 0);
    EXPECT_EQ(backoff_us({5'000'000, 1'000'000, 0.0}, 1, 0.5), 1'000'000); // a base above the cap
    EXPECT_EQ(backoff_us({kInt64Max, kInt64Max, 1.0}, 1, 1.0), kInt64Max);
    EXPECT_EQ(backoff_us({kInt64Max, kInt64Max, 1.0}, 64, 0.0), 0);
}

TEST(Backoff, DelayMatchesWiderIntegers)
{
    test::Random random(6);
    for (int i = 0; i < 100'000; ++i) {
        const BackoffPolicy policy{random.any_int64(), random.any_int64(), 0.0};
        const int attempt = static_cast<int>(random.between(-2, 70));
        const Int128 base = std::max<int64_t>(policy.base_us, 0);
        const Int128 cap = std::max<int64_t>(policy.max_us, 0);
        Int128 expected = std::min(base, cap);
        for (int doubling = 1; doubling < attempt; ++doubling)
            expected = std::min(expected * 2, cap);
        ASSERT_EQ(backoff_without_jitter_us(policy, attempt), static_cast<int64_t>(expected))
            << policy.base_us << " " << policy.max_us << " " << attempt;
        ASSERT_EQ(backoff_us(policy, attempt, random.uniform01()), static_cast<int64_t>(expected));
    }
}

TEST(Backoff, StaysWithinTheJitterAndTheCap)
{
    test::Random random(7);
    for (int i = 0; i < 200'000; ++i) {
        const BackoffPolicy policy{random.any_int64(), random.any_int64(), random.uniform01() * 1.2};
        const int attempt = static_cast<int>(random.between(1, 70));
        const double uniform = random.uniform01();
        const int64_t delay = backoff_without_jitter_us(policy, attempt);
        const int64_t result = backoff_us(policy, attempt, uniform);
        const auto middle = static_cast<long double>(delay);
        const long double spread = middle * std::min(policy.jitter, 1.0);
        const long double rounding = 1.0L + middle * 1e-15L;
        ASSERT_GE(result, 0);
        ASSERT_LE(result, std::max<int64_t>(policy.max_us, 0));
        ASSERT_GE(static_cast<long double>(result), middle - spread - rounding);
        ASSERT_LE(static_cast<long double>(result), middle + spread + rounding);
    }
}

TEST(Backoff, IsEvenlySpreadAndGrowsWithTheRandomNumber)
{
    test::Random random(8);
    constexpr BackoffPolicy policy{8 * kUsPerSecond, 3600 * kUsPerSecond, 0.25};
    constexpr int kSamples = 100'000;
    double sum = 0;
    int below_quarter = 0;
    for (int i = 0; i < kSamples; ++i) {
        const double uniform = random.uniform01();
        const int64_t result = backoff_us(policy, 1, uniform);
        ASSERT_LE(result, backoff_us(policy, 1, uniform + 0.01));
        sum += static_cast<double>(result);
        below_quarter += result < 7 * kUsPerSecond ? 1 : 0; // of 6 to 10 seconds
    }
    EXPECT_NEAR(sum / kSamples, 8e6, 2e4);
    EXPECT_NEAR(below_quarter / static_cast<double>(kSamples), 0.25, 0.01);
}

} // namespace
} // namespace tasker::core
