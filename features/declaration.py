"""From the settings of a job to its features: every default resolved, every mistake refused.

[features]       which names are features, and of what kind
[feature.NAME]   what differs for one of them
[table]          lookups and method, for those that say nothing
"""

import difflib
from collections.abc import Iterable, Iterator

from features.errors import ConfigError
from features.schema import LAYOUT_ORDER, Feature, Kind, Labelled, Pooling
from features.settings import FeatureSettings, FeaturesSettings, TableSettings

_EMBEDDED = {"lookups", "exact", "multiplexed"}
# The settings that mean something for a feature of each kind.
_APPLICABLE: dict[Kind, set[str]] = {
    "categorical": {"column", "shares", "derive"} | _EMBEDDED,
    "list": {"column", "shares", "pooling"} | _EMBEDDED,
    "sequence": {"column", "shares", "pooling", "max_length"} | _EMBEDDED,
    "cross": _EMBEDDED,
    "bucketized": {"column", "bucketize"} | _EMBEDDED,
    "dense": {"column", "log", "clip", "standardize", "missing", "fill"},
}
_POOLINGS: dict[Kind, tuple[Pooling, ...]] = {
    "list": ("mean", "sum"),
    "sequence": ("mean", "last"),
}
# Kinds whose values are values of the data, so that two features can have the same one.
_SHARING_KINDS = ("categorical", "list", "sequence")

# Methods whose values lay rows side by side: popular values may have others.
_SIDE_BY_SIDE = ("unified", "hash", "pq")
_SEVERAL_LOOKUPS = ("unified", "pq")

_Declared = dict[str, Kind]


def resolve(
    data: Labelled | None,
    features: FeaturesSettings,
    feature: dict[str, FeatureSettings],
    table: TableSettings,
) -> tuple[tuple[Feature, ...], tuple[Feature, ...]]:
    """Returns the embedded features in layout order and the dense ones.

    Raises ConfigError naming the key of the first mistake.
    """
    _check_popular(table)
    if not isinstance(table.lookups, int) and table.method != "unified":
        raise ConfigError(
            f'table.lookups is "{table.lookups}", which chooses for table.method = "unified", but '
            f'that is "{table.method}"',
            "give a number",
        )
    declared = _declared(features, feature)
    for name in feature:
        if name not in declared:
            raise ConfigError(
                f'[feature.{name}] is for a feature that [features] does not declare: "{name}"',
                _suggest(name, declared) or "declare it under [features], or remove the table",
            )
    resolved = [
        _resolve_one(name, kind, features, feature, table, declared)
        for name, kind in declared.items()
    ]
    _check_shares(feature, {one.name: one for one in resolved})
    _check_columns(data, resolved)
    embedded = tuple(one for kind in LAYOUT_ORDER for one in resolved if one.kind == kind)
    return embedded, tuple(one for one in resolved if one.kind == "dense")


def _declared(features: FeaturesSettings, feature: dict[str, FeatureSettings]) -> _Declared:
    """The kind of every declared name."""
    declared: _Declared = {}
    for key, kind, name in _declarations(features):
        _check_name(name, f"features.{key}")
        if name in declared:
            first, second = declared[name], kind
            if first == second:
                raise ConfigError(f'features.{key} names "{name}" twice', "remove one of them")
            raise ConfigError(
                f'"{name}" is declared as {first} and as {second}',
                "a feature has one kind; to use a column in two ways declare a second name "
                f'and say where it reads: [feature.{name}_2] column = "{name}"',
            )
        declared[name] = kind
    for name, kind in declared.items():
        if kind == "dense" and name in feature and feature[name].bucketize is not None:
            declared[name] = "bucketized"
    if not declared:
        raise ConfigError(
            "[features] declares no features",
            'list columns by kind, as in [features] categorical = ["user_id", "item_id"]',
        )
    return declared


def _declarations(features: FeaturesSettings) -> Iterator[tuple[str, Kind, str]]:
    lists: tuple[tuple[Kind, list[str]], ...] = (
        ("categorical", features.categorical),
        ("list", features.list),
        ("sequence", features.sequence),
        ("dense", features.dense),
    )
    for kind, names in lists:
        yield from ((kind, kind, name) for name in names)
    yield from (("cross", "cross", name) for name in features.cross)


def _check_name(name: str, key: str) -> None:
    if not name:
        raise ConfigError(f"{key} holds an empty name", "write the name of a column")
    if "\0" in name:
        raise ConfigError(
            f"{key}: the name {name!r} holds a NUL character",
            "rename the feature: NUL marks the null values of a feature",
        )
    if any("\ud800" <= char <= "\udfff" for char in name):
        raise ConfigError(
            f"{key}: the name {name!r} holds half of a surrogate pair", "write it in UTF-8"
        )


def _resolve_one(
    name: str,
    kind: Kind,
    features: FeaturesSettings,
    feature: dict[str, FeatureSettings],
    table: TableSettings,
    declared: _Declared,
) -> Feature:
    settings = feature.get(name, FeatureSettings())
    _check_applicable(name, kind, settings)
    if kind == "dense":
        return _dense(name, settings)
    if kind == "cross":
        parts = tuple(features.cross[name])
        _check_parts(name, parts, declared)
        columns = tuple(_column(part, feature) for part in parts)
    else:
        parts, columns = (), (_column(name, feature),)
    return Feature(
        name=name,
        kind=kind,
        columns=columns,
        parts=parts,
        num_lookups=_num_lookups(name, feature, table),
        salt_name=settings.shares or name,
        exact=_exact(name, settings, table),
        multiplexed=settings.multiplexed,
        derive=settings.derive,
        pooling=_pooling(name, kind, settings),
        max_length=settings.max_length,
        buckets=settings.bucketize,
    )


def _dense(name: str, settings: FeatureSettings) -> Feature:
    if settings.clip is not None and not settings.clip[0] < settings.clip[1]:
        low, high = settings.clip
        raise ConfigError(
            f"feature.{name}.clip is [{low:g}, {high:g}], whose lowest is not below its highest",
            "write the lowest value first",
        )
    return Feature(
        name=name,
        kind="dense",
        columns=(settings.column or name,),
        log=settings.log,
        clip=settings.clip,
        standardize=settings.standardize is not False,
        missing=settings.missing,
        fill=settings.fill,
        salt_name=name,
    )


def _check_applicable(name: str, kind: Kind, settings: FeatureSettings) -> None:
    given = {key for key in type(settings).model_fields if getattr(settings, key) is not None}
    wrong = sorted(given - _APPLICABLE[kind])
    if not wrong:
        return
    owners = [other for other, keys in _APPLICABLE.items() if wrong[0] in keys]
    what = f"feature.{name}.{wrong[0]} does not apply: {name} is {kind}"
    if kind == "bucketized":
        fix = "a bucketized feature is cut by the quantiles of its raw values; remove the key"
    else:
        fix = f"remove it; it is a setting of {_join(owners)} features"
    raise ConfigError(what, fix)


def _check_parts(name: str, parts: tuple[str, ...], declared: _Declared) -> None:
    key = f"features.cross.{name}"
    for part in parts:
        kind = declared.get(part)
        if kind is None:
            known = [other for other, of_kind in declared.items() if of_kind == "categorical"]
            raise ConfigError(
                f'{key} crosses "{part}", which is not a feature',
                _suggest(part, known) or f'declare "{part}" under features.categorical',
            )
        if kind != "categorical":
            raise ConfigError(
                f'{key} crosses "{part}", which is {kind}',
                "cross categorical features; declare the column a second time as categorical "
                "if its values are ids",
            )
    if len(set(parts)) < len(parts):
        twice = next(part for i, part in enumerate(parts) if part in parts[:i])
        raise ConfigError(f'{key} crosses "{twice}" with itself', "name each part once")


def _check_popular(table: TableSettings) -> None:
    if table.hot_rows and table.method not in _SIDE_BY_SIDE:
        raise ConfigError(
            f"table.hot_rows is {table.hot_rows:g}, which table.method = "
            f'"{table.method}" cannot have: its values do not lay rows side by side',
            f"remove it, or take one of the methods {_join(_SIDE_BY_SIDE)}",
        )
    if table.frequent_values is not None and table.method not in _SEVERAL_LOOKUPS:
        raise ConfigError(
            f"table.frequent_values is {table.frequent_values}, which table.method = "
            f'"{table.method}" cannot have: its values do not lay several rows side by side',
            f"remove it, or take one of the methods {_join(_SEVERAL_LOOKUPS)}",
        )


def _num_lookups(name: str, feature: dict[str, FeatureSettings], table: TableSettings) -> int:
    settings = feature.get(name, FeatureSettings())
    if settings.lookups is None and settings.shares in feature:
        # A sharer reads what its target reads; a target that shares itself is refused later.
        settings = feature[settings.shares]
    if table.method == "hash":
        if settings.lookups not in (None, 1):
            raise ConfigError(
                f'feature.{name}.lookups is {settings.lookups}, but table.method = "hash" '
                "reads one row for each value",
                'remove it, or write table.method = "unified"',
            )
        return 1
    return table.num_lookups if settings.lookups is None else settings.lookups


def _exact(name: str, settings: FeatureSettings, table: TableSettings) -> bool | None:
    if table.method == "exact" and settings.exact is False:
        raise ConfigError(
            f'feature.{name}.exact is false, but table.method = "exact" makes every feature exact',
            'remove it, or write table.method = "unified"',
        )
    if settings.exact and settings.multiplexed:
        raise ConfigError(
            f"feature.{name} is both exact and multiplexed",
            "remove one: the rows of an exact feature are its own",
        )
    return settings.exact


def _pooling(name: str, kind: Kind, settings: FeatureSettings) -> Pooling | None:
    allowed = _POOLINGS.get(kind)
    if allowed is None:
        return None
    if settings.pooling is None:
        return "mean"
    if settings.pooling not in allowed:
        raise ConfigError(
            f'feature.{name}.pooling is "{settings.pooling}", but {name} is a {kind}',
            f"a {kind} pools by {_join(allowed)}",
        )
    return settings.pooling


def _check_shares(feature: dict[str, FeatureSettings], resolved: dict[str, Feature]) -> None:
    """Checks that features share only with features whose values, and so whose rows, can agree.

    Rows are shared through the salt's name: the same key under the same salts in the same region is
    the same row. So a sharer takes region, exactness and number of lookups from its target; that
    both have keys of one class is checked where the data is known, by `trainer.representations`.
    """
    for name, settings in feature.items():
        target_name = settings.shares
        if target_name is None:
            continue
        key = f"feature.{name}.shares"
        if target_name == name:
            raise ConfigError(f'{key} is "{name}" itself', "remove it")
        target = resolved.get(target_name)
        if target is None:
            raise ConfigError(
                f'{key} is "{target_name}", which is not a feature',
                _suggest(target_name, resolved) or "name a declared feature",
            )
        if target.kind not in _SHARING_KINDS:
            raise ConfigError(
                f'{key} is "{target_name}", which is {target.kind}',
                f"share with a {_join(_SHARING_KINDS, 'or')} feature",
            )
        if target.salt_name != target.name:
            raise ConfigError(
                f'{key} is "{target_name}", which itself shares the rows of "{target.salt_name}"',
                f'write shares = "{target.salt_name}"',
            )
        for setting in ("exact", "multiplexed"):
            if getattr(settings, setting) is not None:
                raise ConfigError(
                    f"feature.{name}.{setting} is set, but {name} shares the rows of {target_name}",
                    f"set it on [feature.{target_name}], which decides where the rows are",
                )
        sharer = resolved[name]
        if sharer.num_lookups != target.num_lookups:
            raise ConfigError(
                f"feature.{name}.lookups is {sharer.num_lookups}, but {name} shares the rows of "
                f'"{target_name}", which has {target.num_lookups}',
                "remove it: features that share rows read the same number of them",
            )
        if sharer.derive != target.derive:
            raise ConfigError(
                f"feature.{name}.derive differs from that of {target_name}, whose rows it shares",
                "derive the same part of both, or share neither",
            )


def _check_columns(data: Labelled | None, resolved: list[Feature]) -> None:
    """Checks that no feature reads the label or the weight."""
    if data is None:
        return
    if data.weight == data.label:
        raise ConfigError(
            f'data.weight and data.label are the same column "{data.label}"',
            "name the column of the sample weights, or remove data.weight",
        )
    for role, column in (("label", data.label), ("weight", data.weight)):
        for feature in resolved:
            if column in feature.columns:
                raise ConfigError(
                    f'feature "{feature.name}" reads column "{column}", which is the {role}',
                    f"remove the feature: the {role} is not known when the model is used"
                    if role == "label"
                    else f"remove the feature, or data.{role}",
                )


def _column(name: str, feature: dict[str, FeatureSettings]) -> str:
    column = feature[name].column if name in feature else None
    if column is None:
        return name
    _check_name(column, f"feature.{name}.column")
    return column


def _suggest(name: str, known: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'did you mean "{near[0]}"?' if near else None


def _join(words: Iterable[str], last: str = "and") -> str:
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail
