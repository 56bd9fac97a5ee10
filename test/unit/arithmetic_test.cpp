#include "core/arithmetic.hpp"

#include "random.hpp"

#include <gtest/gtest.h>

namespace tasker::core {
namespace {

using test::Int128;

TEST(Arithmetic, FloorDivisionRoundsDown)
{
    static_assert(floor_div(7, 2) == 3 && floor_div(-7, 2) == -4 && floor_div(-8, 2) == -4);
    static_assert(floor_mod(7, 2) == 1 && floor_mod(-7, 2) == 1 && floor_mod(-8, 2) == 0);
    EXPECT_EQ(floor_div(kInt64Min, kInt64Max), -2);
    EXPECT_EQ(floor_mod(kInt64Min, kInt64Max), kInt64Max - 1);
    EXPECT_EQ(floor_div(kInt64Min, 1), kInt64Min);
}

TEST(Arithmetic, FloorDivisionAndRemainderMakeUpTheDividend)
{
    test::Random random(1);
    for (int i = 0; i < 100'000; ++i) {
        const int64_t dividend = random.any_int64();
        const int64_t divisor = std::max<int64_t>(random.any_int64() & kInt64Max, 1);
        const int64_t quotient = floor_div(dividend, divisor);
        const int64_t remainder = floor_mod(dividend, divisor);
        ASSERT_GE(remainder, 0);
        ASSERT_LT(remainder, divisor);
        ASSERT_TRUE(Int128{quotient} * divisor + remainder == dividend) << dividend << " / " << divisor;
    }
}

TEST(Arithmetic, SaturatesLikeWiderIntegers)
{
    test::Random random(2);
    for (int i = 0; i < 100'000; ++i) {
        const int64_t a = random.any_int64();
        const int64_t b = random.any_int64();
        ASSERT_EQ(saturating_add(a, b), test::saturate(Int128{a} + b)) << a << " + " << b;
        ASSERT_EQ(saturating_sub(a, b), test::saturate(Int128{a} - b)) << a << " - " << b;
        ASSERT_EQ(saturating_mul(a, b), test::saturate(Int128{a} * b)) << a << " * " << b;
    }
}

} // namespace
} // namespace tasker::core
