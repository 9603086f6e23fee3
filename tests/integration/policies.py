"""A small evaluator of IAM policies, which stands in for AWS's: only the operators and variables that our template uses.

Deny by default, an explicit deny wins; every operator and every key of a condition must hold, any of a key's values suffices, and a
key that the request lacks fails: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

import fnmatch
import re
from collections.abc import Mapping
from typing import Any


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def like(pattern: str, text: str) -> bool:
    """`*` and `?` are patterns; a bracket is not."""
    return fnmatch.fnmatchcase(text, re.sub(r"[\[\]]", lambda match: f"[{match[0]}]", pattern))


def holds(condition: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    for operator, keys in condition.items():
        for key, wanted in keys.items():
            if key not in context:
                return False
            match operator:
                case "StringEquals":
                    matches = context[key] in listed(wanted)
                case "StringLike":
                    matches = any(like(one, context[key]) for one in listed(wanted))
                case _:
                    raise AssertionError(f"the evaluator knows no {operator}")
            if not matches:
                return False
    return True


def allowed(documents: list[dict[str, Any]], action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Return whether the policies of an identity allow a call."""
    answer = False
    for document in documents:
        for statement in listed(document["Statement"]):
            unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
            assert not unknown, f"the evaluator knows no {unknown}"
            named = any(like(one.lower(), action.lower()) for one in listed(statement["Action"]))
            on = any(like(one, resource) for one in listed(statement["Resource"]))
            if named and on and holds(statement.get("Condition", {}), context or {}):
                if statement["Effect"] == "Deny":
                    return False
                answer = True
    return answer


def trusted(document: dict[str, Any], federated: str, claims: Mapping[str, str]) -> bool:
    """Return whether a trust policy accepts a web identity."""
    issuer = "token.actions.githubusercontent.com"
    context = {f"{issuer}:{name}": value for name, value in claims.items()}
    return any(
        statement["Effect"] == "Allow"
        and "sts:AssumeRoleWithWebIdentity" in listed(statement["Action"])
        and statement["Principal"] == {"Federated": federated}
        and holds(statement["Condition"], context)
        for statement in listed(document["Statement"])
    )
