"""Every public function, class, method and property says what it does; one that overrides another leaves it to that."""

import importlib
import inspect
import pkgutil

import fastcnn as fc


def public_modules():
    yield fc
    for found in pkgutil.walk_packages(fc.__path__, "fastcnn."):
        # torch_nets are the nets of another library, which the bench compares with.
        if any(part.startswith("_") for part in found.name.split(".")[1:]) or found.name.endswith("torch_nets"):
            continue
        yield importlib.import_module(found.name)


def undocumented(module):
    names = getattr(module, "__all__", None) or [name for name in dir(module) if not name.startswith("_")]
    for name in names:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)) or not thing.__module__.startswith("fastcnn"):
            continue
        if not inspect.getdoc(thing):
            yield name
        for key, member in vars(thing).items() if inspect.isclass(thing) else ():
            if key.startswith("_"):
                continue
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            above = (getattr(getattr(base, key, None), "__doc__", None) for base in thing.__mro__[1:])
            if callable(member) and not member.__doc__ and not any(above):
                yield f"{name}.{key}"


def test_all_that_is_public_has_a_docstring():
    found = [f"{module.__name__}.{name}" for module in public_modules() for name in undocumented(module)]
    assert found == []


def test_a_missing_docstring_is_found():
    class Bare:
        def method(self):
            pass

    Bare.__module__ = "fastcnn.nn"
    module = type(inspect)("fastcnn.made_up")
    module.Bare = Bare
    assert list(undocumented(module)) == ["Bare", "Bare.method"]
