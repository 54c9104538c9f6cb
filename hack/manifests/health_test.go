package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	lua "github.com/yuin/gopher-lua"
	"sigs.k8s.io/yaml"
)

// health are objects and what those who deploy them should make of them.
var health = []struct {
	name, object string
	flux         string // current, failed, or nothing: not yet
	argo         string
}{
	{"accepted", "{kind: IPAddressPool, metadata: {generation: 2}, status: {conditions: [{type: Accepted, status: 'True', observedGeneration: 2, message: m}]}}", "current", "Healthy"},
	{"accepted before the edit", "{kind: IPAddressPool, metadata: {generation: 3}, status: {conditions: [{type: Accepted, status: 'True', observedGeneration: 2, message: m}]}}", "", "Progressing"},
	{"refused", "{kind: IPAddressPool, metadata: {generation: 2}, status: {conditions: [{type: Accepted, status: 'False', observedGeneration: 2, message: m}]}}", "failed", "Degraded"},
	{"refused before the edit", "{kind: IPAddressPool, metadata: {generation: 3}, status: {conditions: [{type: Accepted, status: 'False', observedGeneration: 2, message: m}]}}", "", "Progressing"},
	{"another condition first", "{kind: IPAddressPool, metadata: {generation: 1}, status: {conditions: [{type: X, status: 'False', observedGeneration: 1}, {type: Accepted, status: 'True', observedGeneration: 1, message: m}]}}", "current", "Healthy"},
	{"no conditions", "{kind: IPAddressPool, metadata: {generation: 1}, status: {conditions: []}}", "", "Progressing"},
	{"new", "{kind: IPAddressPool, metadata: {generation: 1}, spec: {}}", "error", "Progressing"},
	{"a speaker's", "{kind: SpeakerStatus, metadata: {generation: 1}, status: {version: v}}", "error", "Healthy"},
}

// snippet returns the block of the install page that has a word, without its
// indentation.
func snippet(t *testing.T, word string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/how-to/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(b), "\n```text\n")[1:] {
		if block, _, _ = strings.Cut(block, "\n```"); strings.Contains(block, word) {
			return strings.ReplaceAll("\n"+block, "\n  ", "\n")
		}
	}
	t.Fatalf("the page has no block with %s", word)
	return ""
}

// Flux evaluates the expressions on the object's fields; an error means that it
// waits, as for an object without a status.
func TestFluxWaitsForWhatIsAccepted(t *testing.T) {
	checks := toValues(t, snippet(t, "healthCheckExprs"))["healthCheckExprs"].([]any)
	check := checks[0].(map[string]any)
	env, err := cel.NewEnv(cel.Variable("metadata", cel.DynType), cel.Variable("status", cel.DynType), cel.Variable("spec", cel.DynType))
	if err != nil {
		t.Fatal(err)
	}
	holds := func(name string, object map[string]any) (bool, error) {
		ast, issues := env.Compile(check[name].(string))
		if issues.Err() != nil {
			t.Fatal(issues.Err())
		}
		program, err := env.Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := program.Eval(object)
		return err == nil && out.Value() == true, err
	}
	for _, c := range health {
		object := toValues(t, c.object)
		got := ""
		for _, name := range []string{"current", "failed"} {
			if is, err := holds(name, object); err != nil {
				got = "error"
			} else if is {
				got += name
			}
		}
		if got != c.flux {
			t.Errorf("%s: %q, want %q", c.name, got, c.flux)
		}
	}
}

func TestArgoCDKnowsWhatIsAccepted(t *testing.T) {
	customized := toValues(t, snippet(t, "health.lua"))["resource.customizations"].(string)
	script := toValues(t, customized)["belfry.dev/*"].(map[string]any)["health.lua"].(string)
	for _, c := range health {
		state := lua.NewState()
		state.SetGlobal("obj", luaValue(state, toValues(t, c.object)))
		if err := state.DoString(script); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		result, is := state.Get(-1).(*lua.LTable)
		if !is || result.RawGetString("status").String() != c.argo || result.RawGetString("message") == lua.LNil {
			t.Errorf("%s: %v, want %s with a message", c.name, state.Get(-1), c.argo)
		}
		state.Close()
	}
}

func luaValue(state *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, below := range v {
			table.RawSetString(key, luaValue(state, below))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, below := range v {
			table.Append(luaValue(state, below))
		}
		return table
	case string:
		return lua.LString(v)
	case float64:
		return lua.LNumber(v)
	case bool:
		return lua.LBool(v)
	}
	return lua.LNil
}

// Each kind has the condition that the snippets look for, or Argo CD is told what it
// is without.
func TestEveryKindHasAHealth(t *testing.T) {
	files, err := filepath.Glob(manifests + "/crds/belfry.dev_*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no kinds", err)
	}
	snippets := snippet(t, "health.lua")
	without := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		type schema struct {
			Description string
			Properties  map[string]schema
		}
		var kind struct {
			Spec struct {
				Names    struct{ Kind string }
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema schema `json:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal(b, &kind); err != nil {
			t.Fatal(err)
		}
		for _, v := range kind.Spec.Versions {
			conditions := v.Schema.OpenAPIV3Schema.Properties["status"].Properties["conditions"]
			if strings.Contains(conditions.Description, "is acted on as written") {
				continue // by Accepted
			}
			without++
			if name := kind.Spec.Names.Kind; !strings.Contains(snippets, `obj.kind == "`+name+`"`) {
				t.Errorf("%s has no condition Accepted, and Argo CD waits for it forever", name)
			}
		}
	}
	if without == 0 {
		t.Error("every kind has the condition: the test sees nothing")
	}
}
