"""The store as naively as it can be said: a dict of paths, whole-store copies as transactions. For
comparison."""

from dataclasses import dataclass, field

Entry = tuple[bytes, list[tuple[str, int]]]  # value, permissions
Tree = dict[str, Entry]


@dataclass
class Model:
    """Domains 1 and up are unprivileged. Errors are errno names."""

    tree: Tree = field(default_factory=lambda: {"/": (b"", [("n", 0)])})
    nodes_max: int = 8

    def rights(self, tree: Tree, domid: int, path: str) -> str:
        perms = tree[path][1]
        if domid in (0, perms[0][1]):
            return "rwo"
        letter = next((p[0] for p in perms[1:] if p[1] == domid), perms[0][0])
        return {"n": "", "r": "r", "w": "w", "b": "rw"}[letter]

    def refusal(self, tree: Tree, domid: int, path: str, wanted: str) -> str | None:
        if path in tree and set(wanted) <= set(self.rights(tree, domid, path)):
            return None
        above = parent(path)
        while above not in tree:
            above = parent(above)
        known = set(wanted) & set(self.rights(tree, domid, above))
        return ("EACCES" if path in tree else "ENOENT") if known else "EACCES"

    def read(self, tree: Tree, domid: int, path: str) -> bytes | str:
        return self.refusal(tree, domid, path, "r") or tree[path][0]

    def children(self, tree: Tree, domid: int, path: str) -> set[str] | str:
        return self.refusal(tree, domid, path, "r") or {p for p in tree if p != "/" and parent(p) == path}

    def write(self, tree: Tree, domid: int, path: str, value: bytes) -> str | None:
        refusal = self.refusal(tree, domid, path, "w")
        if refusal == "ENOENT":
            missing, above = [path], parent(path)
            while above not in tree:
                missing, above = [*missing, above], parent(above)
            owned = sum(entry[1][0][1] == domid for entry in tree.values())
            if domid and owned + len(missing) > self.nodes_max:
                return "ENOSPC"
            (letter, owner), *rest = tree[above][1]
            for new in missing:
                tree[new] = (value if new == path else b"", [(letter, domid or owner), *rest])
        elif refusal is None:
            tree[path] = (value, tree[path][1])
        return None if refusal == "ENOENT" else refusal

    def rm(self, tree: Tree, domid: int, path: str) -> str | None:
        refusal = self.refusal(tree, domid, path, "w")
        if refusal == "ENOENT":
            return None if parent(path) in tree else "ENOENT"
        if refusal is None and path == "/":
            return "EINVAL"
        if refusal is None:
            for doomed in [p for p in tree if p == path or p.startswith(path + "/")]:
                del tree[doomed]
        return refusal

    def chmod(self, tree: Tree, domid: int, path: str, perms: list[tuple[str, int]]) -> str | None:
        refusal = self.refusal(tree, domid, path, "wo")
        if refusal is None and domid and perms[0][1] != tree[path][1][0][1]:
            return "EPERM"
        if refusal is None:
            tree[path] = (tree[path][0], perms)
        return refusal

    def release(self, tree: Tree, domid: int) -> None:
        for path in [p for p, entry in tree.items() if entry[1][0][1] == domid]:
            for doomed in [p for p in tree if p == path or p.startswith(path + "/")]:
                del tree[doomed]
        for path, (value, perms) in tree.items():
            tree[path] = (value, [p for p in perms if p[1] != domid])


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"
