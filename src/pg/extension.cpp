#include "pg/extension.hpp"

extern "C" {
#include "catalog/dependency.h"
}

namespace tasker::pg {

void tie_to_extension(Oid relation)
{
    pg_call([&] {
        const Oid extension = get_extension_oid("tasker", false);
        if (list_member_oid(getAutoExtensionsOfObject(RelationRelationId, relation), extension))
            return;
        const ObjectAddress object = {RelationRelationId, relation, 0};
        const ObjectAddress target = {ExtensionRelationId, extension, 0};
        recordDependencyOn(&object, &target, DEPENDENCY_AUTO_EXTENSION);
    });
}

const char *installation()
{
    return pg_call([] {
        return psprintf(UINT64_FORMAT "/%u/%u", GetSystemIdentifier(), MyDatabaseId,
                        get_extension_oid("tasker", true));
    });
}

} // namespace tasker::pg
