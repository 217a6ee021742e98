"""What nodes know of each other, when some of them go and all get other ids."""

from collections.abc import Mapping, Sequence

from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, RelatedNodeInfo


def without_blanks(nodes: Sequence[BaseNode]) -> list[BaseNode]:
    """The nodes that are more than white space; what was linked across others is linked now."""
    by_id = {node.node_id: node for node in nodes}
    kept = []
    for node in nodes:
        if node.get_content(metadata_mode=MetadataMode.NONE).strip():
            kept.append(node)
            continue
        before, after = node.prev_node, node.next_node
        if before is not None:
            _link(by_id.get(before.node_id), NodeRelationship.NEXT, after)
        if after is not None:
            _link(by_id.get(after.node_id), NodeRelationship.PREVIOUS, before)
        del by_id[node.node_id]
    for node in kept:
        if node.child_nodes:
            children = [child for child in node.child_nodes if child.node_id in by_id]
            node.relationships[NodeRelationship.CHILD] = children
    return kept


def rename(nodes: Sequence[BaseNode], names: Mapping[str, str]) -> None:
    """Give nodes other ids, in their relationships to each other, too."""
    for node in nodes:
        node.node_id = names[node.node_id]
        for relation in node.relationships.values():
            for related in relation if isinstance(relation, list) else [relation]:
                related.node_id = names.get(related.node_id, related.node_id)


def _link(
    node: BaseNode | None, relationship: NodeRelationship, other: RelatedNodeInfo | None
) -> None:
    if node is None:
        return
    if other is None:
        node.relationships.pop(relationship, None)
    else:
        node.relationships[relationship] = other
