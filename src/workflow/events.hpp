// Transitions of tasks and steps as events: the queue "tasker.transitions" (stream/log.hpp).
//
// It reads tasker.task_transition and tasker.workflow_step_transition; nothing else is written for it. The
// queue comes into being when a consumer is registered on it, or something else names it. What its events
// hold is in docs/stream.md.
//
// ORDER. The events of one transaction are: the creation of tasks, what happened to steps, what happened to
// tasks; those of one task, and of one step, in the order of their sort_key.
#pragma once

#include "stream/log.hpp"

namespace tasker::workflow {

inline constexpr const char *kTransitionQueue = "tasker.transitions";

// Registers the queue; from _PG_init.
void declare_transition_queue();

// What the rows of both logs that this transaction writes have as txid. To be asked with the partition locked
// for writing.
inline int64_t transition_txid()
{
    return stream::log_txid();
}

// So many transitions have been written: a tick follows the commit, where somebody reads the queue. Called
// once at the end of each call that writes some; costs some dozen nanoseconds where nobody does.
void note_transitions_written(size_t transitions = 1);

} // namespace tasker::workflow
