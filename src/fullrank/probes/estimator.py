"""What scikit-learn needs of an estimator. It is imported only when scikit-learn itself asks."""

from inspect import signature
from typing import TYPE_CHECKING, Any, Self

from fullrank.errors import unknown_name

if TYPE_CHECKING:
    from sklearn.utils import Tags


class Estimator:
    """The settings of an object by the names of its arguments, as `clone` and `GridSearchCV` need them."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings: name -> value.

        Args:
            deep: Changes nothing, because no setting is an estimator.
        """
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change settings; they are checked as in `__init__`, and what was learnt stays until the next `fit`.

        Args:
            **params: New values by name.

        Raises:
            UsageError: If a name is unknown or a value is outside its limits.
        """
        settings = self.get_params()
        for name in params:
            if name not in settings:
                remedy = f"{type(self).__name__} has {', '.join(settings)}"
                raise unknown_name("setting", name, settings, remedy)
        vars(self).update(vars(type(self)(**(settings | params))))
        return self

    def __repr__(self) -> str:
        defaults = type(self)().get_params()
        changed = ((name, value) for name, value in self.get_params().items() if value != defaults[name])
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes")

    def __sklearn_tags__(self) -> "Tags":
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
        )
