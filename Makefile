# Tasker: build, install and test with PGXS.
#
#   make                 the library and tasker--1.0.sql
#   make install         into the server that PG_CONFIG names
#   make installcheck    pg_regress and isolation tests against a running server
#   make sql             assemble tasker--1.0.sql from the planes' own files

EXTENSION  = tasker
EXTVERSION = 1.0
MODULE_big = tasker

# The script is assembled in the order of the planes: no plane refers to one above it.
SQL_PARTS = src/tasker.sql src/partition/partition.sql src/partition/analyze.sql src/partition/parent.sql \
	src/partition/like.sql src/partition/views.sql src/partition/move.sql \
	src/queue/queue.sql src/stream/stream.sql src/stream/events.sql src/stream/views.sql src/stream/rotate.sql \
	src/stream/info.sql src/stream/retry.sql src/stream/coop.sql src/stream/triga.sql src/stream/wake.sql \
	src/stream/restore.sql src/stream/log.sql src/stream/rights.sql \
	src/workflow/workflow.sql src/workflow/template.sql src/workflow/engine.sql src/workflow/control.sql \
	src/workflow/events.sql src/workflow/views.sql src/workflow/read.sql src/workflow/ready.sql src/workflow/counts.sql \
	src/workflow/dlq.sql src/workflow/graph.sql src/workflow/housekeeping.sql src/workflow/rights.sql src/worker/worker.sql
DATA      = $(EXTENSION)--$(EXTVERSION).sql

SOURCES = $(sort $(wildcard src/*.cpp src/*/*.cpp))
OBJS    = $(SOURCES:.cpp=.o)
DEPS    = $(OBJS:.o=.d)

REGRESS        = $(shell sed -n 's/^test: *//p' sql/schedule 2>/dev/null)
ISOLATION      = $(shell sed -n 's/^test: *//p' test/isolation/schedule 2>/dev/null)
ISOLATION_OPTS = --inputdir=test/isolation --outputdir=output_iso
EXTRA_CLEAN    = $(DEPS) output_iso build

PG_CONFIG ?= pg_config
# Bitcode serves JIT inlining of C functions into expressions; ours are far too large for that.
override with_llvm = no

PG_CXXFLAGS = -std=c++20 -fvisibility=hidden -fno-semantic-interposition -MMD -MP -I$(CURDIR)/src \
	-isystem $(shell $(PG_CONFIG) --includedir-server) \
	-Wall -Wextra -Wshadow -Wclobbered -Wno-register $(WERROR)
SHLIB_LINK  = -lstdc++

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS on Debian tracks no dependencies of its own; the compiler writes one .d file beside each object.
-include $(DEPS)
$(OBJS): Makefile

.PHONY: sql
sql: $(DATA)
all: sql

$(DATA): $(SQL_PARTS) Makefile
	@{ printf '%s\n' '-- Assembled by make from: $(SQL_PARTS)' \
	     '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; \
	   for part in $(SQL_PARTS); do echo; cat $$part || exit 1; done; } > $@.tmp && mv $@.tmp $@
