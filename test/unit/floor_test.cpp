#include "core/floor.hpp"

#include "floor_model.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace tasker::core {
namespace {

using test::Fault;
using test::FloorModel;
using test::Tally;

constexpr int kSeeds = 300;
constexpr int kSteps = 2000;

template <typename FloorType> Tally run_model(Fault fault)
{
    Tally tally;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed)
        tally += FloorModel<FloorType>(seed, fault).run(kSteps);
    return tally;
}

TEST(Floor, ZeroedMemoryHidesNothing)
{
    Floor floor{1, 2, true};
    std::memset(&floor, 0, sizeof floor);
    EXPECT_EQ(floor.begin_scan(), 0);
    floor.end_scan(500);
    EXPECT_EQ(floor.value, 500);
}

TEST(Floor, RisesToWhatAScanReached)
{
    Floor floor{};
    floor.reset(100);
    EXPECT_EQ(floor.begin_scan(), 100);
    EXPECT_TRUE(floor.scanning);
    floor.end_scan(250);
    EXPECT_EQ(floor.value, 250);
    EXPECT_FALSE(floor.scanning);
}

TEST(Floor, AScanNeverLowers)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.end_scan(50);
    EXPECT_EQ(floor.value, 100);
}

TEST(Floor, AnEmptyLaneHoldsNothing)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.end_scan(kNothing);
    EXPECT_EQ(floor.value, kNothing);
    floor.lower(300);
    EXPECT_EQ(floor.value, 300);
}

TEST(Floor, KeepsWhatWasLoweredDuringAScan)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.lower(180);
    floor.lower(150);
    floor.lower(400);
    EXPECT_EQ(floor.value, 100);
    floor.end_scan(250);
    EXPECT_EQ(floor.value, 150);
}

TEST(Floor, KeepsWhatWasLoweredBelowItself)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.lower(40);
    EXPECT_EQ(floor.value, 40); // for others who scan meanwhile
    floor.end_scan(250);
    EXPECT_EQ(floor.value, 40);
}

TEST(Floor, ForgetsLoweringsOfFormerScans)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.lower(150);
    floor.end_scan(250);
    EXPECT_EQ(floor.begin_scan(), 150);
    floor.end_scan(300);
    EXPECT_EQ(floor.value, 300);
}

TEST(Floor, AScanThatIsCutOffChangesNothing)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.lower(170);
    floor.abandon_scan();
    EXPECT_EQ(floor.value, 100);
    EXPECT_FALSE(floor.scanning);

    floor.begin_scan();
    floor.lower(60);
    floor.abandon_scan();
    EXPECT_EQ(floor.value, 60);
}

TEST(Floor, ANewScanReplacesOneThatWasCutOff)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.lower(150);
    EXPECT_EQ(floor.begin_scan(), 100);
    floor.end_scan(250); // which has seen what was lowered before it
    EXPECT_EQ(floor.value, 250);
}

TEST(Floor, AScanThatAResetCutOffDoesNotRaise)
{
    Floor floor{};
    floor.reset(100);
    floor.begin_scan();
    floor.reset(30);
    EXPECT_FALSE(floor.scanning);
    floor.end_scan(250);
    EXPECT_EQ(floor.value, 30);
}

TEST(Floor, NeverLosesARecordUnderRandomInterleavings)
{
    const Tally tally = run_model<Floor>(Fault::none);
    EXPECT_EQ(tally.lost, 0);
    EXPECT_EQ(tally.left_behind, 0);
    EXPECT_EQ(tally.loose, 0);
    // The runs have to be worth something: the floor moved, and lowerings met scans.
    EXPECT_GT(tally.raised, 20 * kSeeds);
    EXPECT_GT(tally.lowered_in_scan, 100 * kSeeds);
    EXPECT_GT(tally.taken, 100 * kSeeds);
}

// A floor that raises over what was lowered while it was being scanned.
struct ForgetfulFloor : Floor
{
    void end_scan(int64_t reached)
    {
        value = std::max(value, reached);
        scanning = false;
    }
};

TEST(Floor, TheModelSeesAFloorThatForgets)
{
    EXPECT_GT(run_model<ForgetfulFloor>(Fault::none).lost, 0);
}

class FloorRule : public testing::TestWithParam<Fault>
{
};

TEST_P(FloorRule, IsNeeded)
{
    EXPECT_GT(run_model<Floor>(GetParam()).lost, 0);
}

INSTANTIATE_TEST_SUITE_P(Every, FloorRule,
                         testing::Values(Fault::lower_before_the_end, Fault::no_lower_after_abort,
                                         Fault::snapshot_before_begin, Fault::reach_past_equal_positions,
                                         Fault::reach_past_foreign_locks, Fault::forget_what_was_not_taken,
                                         Fault::raise_without_owning_the_scan));

} // namespace
} // namespace tasker::core
