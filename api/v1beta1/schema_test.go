package v1beta1_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
)

var shared = lab.Share(lab.Options{ControlPlaneOnly: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// A definition is a CRD of manifests/crds.
type definition struct {
	kind     string
	resource schema.GroupVersionResource
	schema   node
}

// A node is a part of an OpenAPI schema, or of an object.
type node = map[string]any

// files are the CRDs, those included that no installation gets yet.
func files() ([]string, error) {
	files, err := filepath.Glob("../../manifests/crds/belfry.dev_*.yaml")
	if err == nil && len(files) == 0 {
		err = errors.New("no CRDs in manifests/crds")
	}
	return files, err
}

func definitions(t *testing.T) []definition {
	t.Helper()
	files, err := files()
	if err != nil {
		t.Fatal(err)
	}
	var all []definition
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var crd unstructured.Unstructured
		if err := utilyaml.Unmarshal(b, &crd.Object); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
		plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
		versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
		s, _, _ := unstructured.NestedMap(versions[0].(node), "schema", "openAPIV3Schema", "properties")
		all = append(all, definition{kind, v1beta1.SchemeGroupVersion.WithResource(plural), s})
	}
	return all
}

var install = sync.OnceValue(func() error {
	l := current
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	files, err := files()
	if err != nil {
		return err
	}
	if _, err := l.Cluster.Kubectl(ctx, "apply", "--server-side", "-f", strings.Join(files, ",")); err != nil {
		return err
	}
	_, err = l.Cluster.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
	return err
})

// current is the lab that install uses.
var current *lab.Lab

// api returns a client of a real API server that has our CRDs.
func api(t *testing.T) dynamic.Interface {
	t.Helper()
	current = shared.Get(t)
	if err := install(); err != nil {
		t.Fatal(err)
	}
	config := current.Cluster.AdminConfig()
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range definitions(t) {
		deadline := time.Now().Add(20 * time.Second)
		for {
			_, err := client.Resource(d.resource).List(t.Context(), metav1.ListOptions{Limit: 1})
			if err == nil {
				break
			}
			if !apierrors.IsNotFound(err) || time.Now().After(deadline) {
				t.Fatalf("%s is not served: %v", d.kind, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return client
}

// examples returns the objects of testdata, in which every field of a kind is
// set at least once.
func examples(t *testing.T, kind string) []node {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", strings.ToLower(kind)+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []node
	for _, doc := range bytes.Split(b, []byte("\n---\n")) {
		var o node
		if err := utilyaml.Unmarshal(doc, &o); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		all = append(all, o)
	}
	return all
}

// A judge has the API server judge objects without storing them.
type judge struct {
	client dynamic.Interface
	// stored has an object of each kind, for those whose status is to be judged.
	stored map[string]*unstructured.Unstructured
}

func newJudge(t *testing.T) judge {
	j := judge{api(t), map[string]*unstructured.Unstructured{}}
	for _, d := range definitions(t) {
		o := &unstructured.Unstructured{Object: examples(t, d.kind)[0]}
		o.SetName("stored-" + strings.ToLower(t.Name()))
		u, err := j.client.Resource(d.resource).Create(t.Context(), o, metav1.CreateOptions{FieldValidation: "Strict"})
		if err != nil {
			t.Fatalf("%s: %v", d.kind, err)
		}
		t.Cleanup(func() {
			if err := j.client.Resource(d.resource).Delete(context.WithoutCancel(t.Context()), u.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
		j.stored[d.kind] = u
	}
	return j
}

// try returns why an object, or its status, is refused.
func (j judge) try(t *testing.T, d definition, root string, o node) []metav1.StatusCause {
	t.Helper()
	var err error
	dryRun := []string{metav1.DryRunAll}
	if root == "status" {
		u := j.stored[d.kind].DeepCopy()
		u.Object["status"] = o["status"]
		_, err = j.client.Resource(d.resource).UpdateStatus(t.Context(), u, metav1.UpdateOptions{DryRun: dryRun, FieldValidation: "Strict"})
	} else {
		u := (&unstructured.Unstructured{Object: o}).DeepCopy()
		u.SetName("try")
		_, err = j.client.Resource(d.resource).Create(t.Context(), u, metav1.CreateOptions{DryRun: dryRun, FieldValidation: "Strict"})
	}
	if err == nil {
		return nil
	}
	var status *apierrors.StatusError
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) {
		t.Fatalf("%s %v: %v", d.kind, o, err)
	}
	return status.ErrStatus.Details.Causes
}

func TestObjectsWithEveryFieldAreAccepted(t *testing.T) {
	j := newJudge(t)
	for _, d := range definitions(t) {
		for _, o := range examples(t, d.kind) {
			for _, root := range roots {
				if causes := j.try(t, d, root, o); len(causes) > 0 {
					t.Errorf("%s of %s %v is refused: %v", root, d.kind, o["metadata"], causes)
				}
			}
		}
		for _, s := range sites(d) {
			if s.in(examples(t, d.kind)) == nil {
				t.Errorf("%s: testdata does not show %s", d.kind, s.path)
			}
		}
	}
}

// Somebody who asks for what there is not is told so, and by its name: TCP-AO, for one
// (docs/design/tcp-ao.md).
func TestUnknownFieldsAreRefused(t *testing.T) {
	j := judge{api(t), nil}
	for _, d := range definitions(t) {
		if d.kind != "BGPPeer" {
			continue
		}
		o := &unstructured.Unstructured{Object: examples(t, d.kind)[0]}
		o.SetName("unknown-field")
		if err := unstructured.SetNestedField(o.Object, "tor", "spec", "tcpAO"); err != nil {
			t.Fatal(err)
		}
		// As kubectl asks by default.
		_, err := j.client.Resource(d.resource).Create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: "Strict"})
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.tcpAO"`) {
			t.Errorf("%v", err)
		}
		return
	}
	t.Fatal("there is no BGPPeer")
}

// A site is a place of a schema.
type site struct {
	kind string
	// path has [] for the items of a list and {} for the values of a map.
	path   string
	schema node
}

// roots are where a user writes and where Belfry does.
var roots = []string{"spec", "status"}

// root returns which of the two a site is in.
func (s site) root() string { return s.steps()[0] }

// sites returns every place of a kind.
func sites(d definition) []site {
	var all []site
	var walk func(path string, s node)
	walk = func(path string, s node) {
		all = append(all, site{d.kind, path, s})
		if p, ok := s["properties"].(node); ok {
			for _, name := range sortedKeys(p) {
				walk(path+"."+name, p[name].(node))
			}
		}
		if i, ok := s["items"].(node); ok {
			walk(path+"[]", i)
		}
		if v, ok := s["additionalProperties"].(node); ok {
			walk(path+"{}", v)
		}
	}
	for _, root := range roots {
		if s, ok := d.schema[root].(node); ok {
			walk(root, s)
		}
	}
	return all
}

func sortedKeys(m node) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// steps splits a path.
func (s site) steps() []string {
	p := strings.ReplaceAll(strings.ReplaceAll(s.path, "[]", ".[]"), "{}", ".{}")
	return strings.Split(p, ".")
}

// A place is a site in an object: a copy of the object, the value there, how to
// replace it (nil removes it), and what the API server calls the place.
type place struct {
	object node
	value  any
	set    func(any)
	field  string
	// alias is the field in the other of two forms that the API server has for
	// the values of a map.
	alias string
}

// is reports whether a cause is about the place, or about a field in it.
func (p *place) is(c metav1.StatusCause, field string) bool {
	return c.Field == p.field+field || p.alias != "" && c.Field == p.alias+field
}

// in finds the site in the first of the objects that has it, and there in the
// first items that have it.
func (s site) in(objects []node) *place {
	for _, o := range objects {
		o := (&unstructured.Unstructured{Object: o}).DeepCopy().Object
		if p := (&place{object: o, value: o}).find(s.steps()); p != nil {
			return p
		}
	}
	return nil
}

func (p *place) find(steps []string) *place {
	if len(steps) == 0 {
		return p
	}
	switch v := p.value.(type) {
	case node:
		for _, key := range sortedKeys(v) {
			if key == steps[0] || steps[0] == "{}" {
				child := p.child(key, v)
				if steps[0] == "{}" {
					child.alias = p.field + "[" + key + "]"
				}
				return child.find(steps[1:])
			}
		}
	case []any:
		for i := range v {
			item := &place{object: p.object, value: v[i], set: func(to any) { v[i] = to }, field: fmt.Sprintf("%s[%d]", p.field, i)}
			if found := item.find(steps[1:]); found != nil {
				return found
			}
		}
	}
	return nil
}

func (p *place) child(key string, of node) *place {
	return &place{object: p.object, value: of[key], field: strings.TrimPrefix(p.field+"."+key, "."), set: func(to any) {
		if of[key] = to; to == nil {
			delete(of, key)
		}
	}}
}

// bound returns a number of a schema, such as maxLength.
func (s site) bound(t *testing.T, name string) (int64, bool) {
	t.Helper()
	v, ok := s.schema[name]
	if !ok {
		return 0, false
	}
	n, ok := v.(int64)
	if !ok {
		t.Fatalf("%s %s: %s is %T", s.kind, s.path, name, v)
	}
	return n, true
}

// Each bound of the schema is broken by itself, at every place, and the answer
// must name the place.
func TestEveryBoundOfTheSchemaIsEnforced(t *testing.T) {
	j := newJudge(t)
	var tried int
	for _, d := range definitions(t) {
		objects := examples(t, d.kind)
		for _, s := range sites(d) {
			check := func(bound, want string, replace func(p *place)) {
				t.Helper()
				p := s.in(objects)
				if p == nil {
					return // told elsewhere
				}
				replace(p)
				tried++
				causes := j.try(t, d, s.root(), p.object)
				if !slices.ContainsFunc(causes, func(c metav1.StatusCause) bool {
					return p.is(c, "") && strings.Contains(c.Message, want)
				}) {
					t.Errorf("%s: %s at %s: got %v, want %q", d.kind, bound, p.field, causes, want)
				}
			}
			if max, ok := s.bound(t, "maxLength"); ok {
				check("maxLength", "Too long", func(p *place) { p.set(strings.Repeat("a", int(max)+1)) })
			}
			if min, ok := s.bound(t, "minLength"); ok && min > 0 {
				check("minLength", "at least", func(p *place) { p.set("") })
			}
			if max, ok := s.bound(t, "maximum"); ok {
				check("maximum", "less than or equal", func(p *place) { p.set(max + 1) })
			}
			if min, ok := s.bound(t, "minimum"); ok {
				check("minimum", "greater than or equal", func(p *place) { p.set(min - 1) })
			}
			if _, ok := s.schema["enum"]; ok {
				check("enum", "supported values", func(p *place) { p.set("Nonsense") })
			}
			if max, ok := s.bound(t, "maxItems"); ok {
				check("maxItems", "Too many", func(p *place) {
					p.set(slices.Repeat(p.value.([]any)[:1], int(max)+1))
				})
			}
			if min, ok := s.bound(t, "minItems"); ok && min > 0 {
				check("minItems", "at least", func(p *place) { p.set([]any{}) })
			}
			if max, ok := s.bound(t, "maxProperties"); ok {
				check("maxProperties", "Too many", func(p *place) {
					many := node{}
					for i := range max + 1 {
						many["k"+strconv.FormatInt(i, 10)] = "v"
					}
					p.set(many)
				})
			}
			switch s.schema["x-kubernetes-list-type"] {
			case "set", "map":
				p := s.in(objects)
				if p == nil {
					continue
				}
				twice := fmt.Sprintf("%s[%d]", p.field, len(p.value.([]any)))
				p.set(append(slices.Clone(p.value.([]any)), p.value.([]any)[0]))
				tried++
				causes := j.try(t, d, s.root(), p.object)
				if !slices.ContainsFunc(causes, func(c metav1.StatusCause) bool {
					return c.Field == twice && c.Type == metav1.CauseTypeFieldValueDuplicate
				}) {
					t.Errorf("%s: an item twice at %s: got %v", d.kind, p.field, causes)
				}
			}
			required, _ := s.schema["required"].([]any)
			for _, name := range required {
				p := s.in(objects)
				if p == nil {
					continue
				}
				child := p.find([]string{name.(string)})
				if child == nil {
					t.Errorf("%s: testdata does not show %s.%s", d.kind, s.path, name)
					continue
				}
				child.set(nil)
				tried++
				causes := j.try(t, d, s.root(), p.object)
				if !slices.ContainsFunc(causes, func(c metav1.StatusCause) bool {
					return child.is(c, "") && c.Type == metav1.CauseTypeFieldValueRequired
				}) {
					t.Errorf("%s: without %s: got %v", d.kind, child.field, causes)
				}
			}
		}
	}
	t.Logf("%d bounds broken", tried)
}
