package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var rewrite = flag.Bool("rewrite", false, "write the pages that are generated from the chart's schema")

// A described value is one that the chart's schema describes.
type describedValue struct {
	path        string // as for --set: controller.replicas
	description string
	fallback    string // the default, as JSON
}

// described are the values that are set as a whole, sorted by path. Every level
// of the schema must have a description.
func described(t *testing.T) []describedValue {
	t.Helper()
	type schema struct {
		Description string
		Properties  map[string]schema
	}
	var root schema
	b, err := os.ReadFile(chart + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile(chart + "/values.yaml"); err != nil {
		t.Fatal(err)
	}
	var defaults any
	if err := yaml.Unmarshal(b, &defaults); err != nil {
		t.Fatal(err)
	}
	var all []describedValue
	var walk func(path string, s schema, value any)
	walk = func(path string, s schema, value any) {
		if path != "" && (!strings.HasSuffix(s.Description, ".") || strings.ContainsAny(s.Description, "|`\n")) {
			t.Errorf("%s: the description %q is no sentence that fits a table", path, s.Description)
		}
		if len(s.Properties) == 0 {
			fallback, _ := json.Marshal(value)
			all = append(all, describedValue{path, s.Description, string(fallback)})
			return
		}
		values, _ := value.(object)
		for name, below := range s.Properties {
			walk(strings.TrimPrefix(path+"."+name, "."), below, values[name])
		}
	}
	walk("", root, defaults)
	slices.SortFunc(all, func(a, b describedValue) int { return strings.Compare(a.path, b.path) })
	return all
}

// The pages that list the values are what the schema and values.yaml say.
//
//	go -C hack/manifests test . -run ValuesPages -rewrite
func TestTheValuesPagesAreCurrent(t *testing.T) {
	var table strings.Builder
	table.WriteString("| value | default | meaning |\n|---|---|---|\n")
	for _, v := range described(t) {
		switch v.fallback {
		case "null", `""`, "{}", "[]":
			v.fallback = ""
		default:
			if len(v.fallback) > 40 {
				v.fallback = "see `values.yaml`"
				break
			}
			v.fallback = "`" + v.fallback + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", v.path, v.fallback, v.description)
	}
	const begin, end = "<!-- values: generated from the chart's schema -->\n", "<!-- end of values -->\n"
	for _, page := range []string{chart + "/README.md", "../../docs/reference/helm-values.md"} {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, begun := strings.Cut(string(b), begin)
		_, after, ended := strings.Cut(rest, end)
		if !begun || !ended {
			t.Fatalf("%s has no place for the values", page)
		}
		want := before + begin + table.String() + end + after
		if want == string(b) {
			continue
		}
		if !*rewrite {
			t.Errorf("%s is not current: go -C hack/manifests test . -run ValuesPages -rewrite", page)
		} else if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
