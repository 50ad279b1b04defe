#!/usr/bin/env python3
"""Makes kubeconform's schemas from the OpenAPI document of Kubernetes: chart_schemas.py SWAGGER.json DIRECTORY

One file for each kind that can be created, KIND-GROUP-VERSION.json, whole in itself and strict: a field that the API does
not have is an error. Descriptions are left out.
"""
import json
import os
import sys

# What may be anything, or contains itself.
OPEN = ("RawExtension", "FieldsV1", "JSONSchemaProps", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSON")
KEPT = ("type", "required", "enum", "format")


def one_of(*types):
    return {"oneOf": [{"type": [kind, "null"]} for kind in types]}


class Schemas:
    def __init__(self, definitions):
        self.definitions = definitions
        self.made = {}

    def of(self, schema, nullable):
        """The schema with every reference written out."""
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            kind = name.rsplit(".", 1)[1]
            if kind == "IntOrString":
                return one_of("string", "integer")
            if kind == "Quantity":
                return one_of("string", "number")
            if kind in OPEN:
                return {"type": ["object", "null"]}
            if name not in self.made:
                self.made[name] = self.of(self.definitions[name], True)
            return self.made[name]
        made = {key: schema[key] for key in KEPT if key in schema}
        required = schema.get("required", [])
        if "properties" in schema:
            fields = schema["properties"].items()
            made["properties"] = {name: self.of(field, name not in required) for name, field in fields}
            made["additionalProperties"] = False
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                made[key] = self.of(schema[key], True)
        if nullable and isinstance(made.get("type"), str):
            made["type"] = [made["type"], "null"]
        return made


def main(source, target):
    with open(source) as file:
        definitions = json.load(file)["definitions"]
    schemas = Schemas(definitions)
    os.makedirs(target)
    count = 0
    for definition in definitions.values():
        kinds = definition.get("x-kubernetes-group-version-kind", [])
        if len(kinds) != 1:
            continue  # Options of requests, which belong to every group.
        group, version, kind = (kinds[0][key] for key in ("group", "version", "kind"))
        schema = dict(schemas.of(definition, False))
        names = {"apiVersion": f"{group}/{version}" if group else version, "kind": kind}
        fields = dict(schema.get("properties", {}))
        fields.update({name: {"type": "string", "enum": [value]} for name, value in names.items() if name in fields})
        schema.update(properties=fields, required=sorted(set(schema.get("required", [])) | (set(names) & set(fields))))
        parts = (kind.lower(), group.split(".")[0], version.lower())
        path = os.path.join(target, "-".join(part for part in parts if part) + ".json")
        with open(path, "w") as file:
            json.dump(schema, file, separators=(",", ":"))
        count += 1
    print(f"schemas of {count} kinds")


if __name__ == "__main__":
    main(*sys.argv[1:])
