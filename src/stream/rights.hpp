// Who may do what with a queue.
//
// Members of tasker_admin, the extension's owner and superusers may do everything; members of tasker_producer
// and tasker_worker may produce into and consume from every queue, those of tasker_observer see every queue.
// A role that is none of these has what grant_queue() has given it: rows of tasker.queue_grant.
//
// Rights are checked where a queue, a subscription or a batch is looked up for a caller (queue_named,
// lock_subscription, find_batch, insert_events), which ask for a Right by default. So a new function that
// looks one up checks without doing anything for it. Work that is not done for the caller says Right::none.
//
// The caller is who the current user is: SECURITY DEFINER functions and SET ROLE count, and rights are
// inherited as all rights in the server are. What is found out is cached for each user and queue, until a
// role, a membership or a grant changes.
#pragma once

#include "pg/postgres.hpp"

namespace tasker::stream {

enum class Right : uint8_t
{
    none = 0, // nothing is asked for
    produce = 1,
    consume = 2,
    see = 4,
    any = produce | consume | see // one of them
};

// Has the current user that right on the queue? It must exist.
bool may(Right right, int32_t queue_id);

// The same right after the queue was looked up, which has taken in what others have changed. Errors:
// insufficient_privilege, with the queue's name.
void require_right(Right right, int32_t queue_id, const char *queue_name);

// Forgets the grants on a queue that is dropped.
void drop_grants(int32_t queue_id);

// Gives the routines of the stream again to all who have been granted a queue: see after_restore().
void renew_grants();

} // namespace tasker::stream
