package v1beta1_test

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/kube/client/versioned"
)

// The Go types and the schema are two descriptions of the same objects.
func TestGoTypesHoldEveryFieldThatTheSchemaHas(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for _, d := range definitions(t) {
		for _, example := range examples(t, d.kind) {
			o, err := scheme.New(v1beta1.SchemeGroupVersion.WithKind(d.kind))
			if err != nil {
				t.Fatal(err)
			}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(example, o, true); err != nil {
				t.Errorf("%s: %v", d.kind, err)
				continue
			}
			back, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sites(d) {
				was, is := s.in([]node{example}), s.in([]node{back})
				if was == nil || empty(was.value) {
					continue
				}
				if is == nil || !reflect.DeepEqual(is.value, was.value) && !composite(was.value) {
					t.Errorf("%s: %s is %v in JSON, and %v after the Go type", d.kind, s.path, was.value, is)
				}
			}
		}
	}
}

// empty reports whether a value is left out by omitempty.
func empty(v any) bool {
	r := reflect.ValueOf(v)
	return r.IsZero() || r.Kind() == reflect.Slice && r.Len() == 0
}

func composite(v any) bool {
	switch v.(type) {
	case node, []any:
		return true
	default:
		return false
	}
}

// The defaults of the schema and those that package config has for objects that
// were never defaulted are the same.
func TestDefaultsAreTheSameInTheSchemaAndInConfig(t *testing.T) {
	api(t)
	client, err := versioned.NewForConfig(current.Cluster.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}

	written := &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "plain"},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"192.0.2.0/24", "2001:db8::/64"}},
	}
	stored, err := client.BelfryV1beta1().IPAddressPools().Create(t.Context(), written, dryRun)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Spec.Strategy == "" || stored.Spec.AutoAssign == nil || stored.Spec.Retention == "" || stored.Spec.OrphanPolicy == "" {
		t.Errorf("the API server fills in no defaults: %+v", stored.Spec)
	}
	want, _ := config.Pool(written)
	got, problems := config.Pool(stored)
	want.Created = got.Created
	if !reflect.DeepEqual(got, want) || len(problems) > 0 {
		t.Errorf("pool defaulted by the API server: %+v, %v\nby config: %+v", got, problems, want)
	}

	unset := &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "plain"}}
	ad, err := client.BelfryV1beta1().L2Advertisements().Create(t.Context(), unset, dryRun)
	if err != nil {
		t.Fatal(err)
	}
	if len(ad.Spec.ExcludeInterfaces) == 0 || ad.Spec.Failback == "" || ad.Spec.ConflictPolicy == "" {
		t.Errorf("the API server fills in no defaults: %+v", ad.Spec)
	}
	wantAd, _ := config.L2Advertisement(unset)
	gotAd, problems := config.L2Advertisement(ad)
	wantAd.Created = gotAd.Created
	if !reflect.DeepEqual(gotAd, wantAd) || len(problems) > 0 {
		t.Errorf("advertisement defaulted by the API server: %+v, %v\nby config: %+v", gotAd, problems, wantAd)
	}

	unset.Spec.ExcludeInterfaces = []v1beta1.InterfacePattern{}
	if ad, err = client.BelfryV1beta1().L2Advertisements().Create(t.Context(), unset, dryRun); err != nil {
		t.Fatal(err)
	}
	if len(ad.Spec.ExcludeInterfaces) > 0 {
		t.Errorf("an empty excludeInterfaces becomes %v", ad.Spec.ExcludeInterfaces)
	}
}

// A schema may only hold what the tests of this package know to break.
func TestTheSchemaHasNoBoundThatIsNotTested(t *testing.T) {
	known := []string{
		"type", "properties", "items", "additionalProperties", "description", "default", "required", "enum",
		"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "format",
		"x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
	}
	for _, d := range definitions(t) {
		for _, s := range sites(d) {
			if strings.HasPrefix(s.path, "status.conditions[]") {
				continue // the schema of Kubernetes' own conditions
			}
			for _, key := range sortedKeys(s.schema) {
				if !slices.Contains(known, key) {
					t.Errorf("%s %s: %s", d.kind, s.path, key)
				}
			}
			if strings.HasPrefix(s.path, "spec") {
				for bound, kind := range map[string]string{"maxLength": "string", "maxItems": "array"} {
					if s.schema["type"] == kind && s.schema[bound] == nil && s.schema["enum"] == nil {
						t.Errorf("%s %s has no %s", d.kind, s.path, bound)
					}
				}
			}
		}
	}
}

func TestListsOfAPoolStatusHaveTheBoundsThatTheConstantsSay(t *testing.T) {
	want := map[string]int64{
		"status.freed":     v1beta1.MaxFreed,
		"status.orphans":   v1beta1.MaxOrphans,
		"status.addresses": v1beta1.MaxStatusAddresses,
	}
	for _, d := range definitions(t) {
		for _, s := range sites(d) {
			if max, ok := s.bound(t, "maxItems"); ok && d.kind == "IPAddressPool" && want[s.path] != 0 {
				if max != want[s.path] {
					t.Errorf("%s has %d items, the constant says %d", s.path, max, want[s.path])
				}
				delete(want, s.path)
			}
		}
	}
	for path := range want {
		t.Errorf("the schema has no bound for %s", path)
	}
}

func TestKubectlGetShowsWhatAPersonWants(t *testing.T) {
	client := api(t)
	for _, d := range definitions(t) {
		o := &unstructured.Unstructured{Object: examples(t, d.kind)[0]}
		status := o.Object["status"]
		created, err := client.Resource(d.resource).Create(t.Context(), o, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = client.Resource(d.resource).Delete(context.WithoutCancel(t.Context()), o.GetName(), metav1.DeleteOptions{})
		})
		created.Object["status"] = status
		if _, err := client.Resource(d.resource).UpdateStatus(t.Context(), created, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ resource, want string }{
		{"pools", `
NAME RANGES AUTO V4-ASSIGNED V4-AVAILABLE V6-ASSIGNED V6-AVAILABLE ACCEPTED AGE
edge ["192.0.2.0/26","192.0.2.100 - 192.0.2.120","192.0.2.200","2001:db8:0:1::/64"] true 3 80 3 9223372036854775807 Overlaps AGE`},
		{"l2adv", `
NAME POOLS INTERFACES ACCEPTED AGE
lan ["edge","lab.example"] ["eth0","en*","eth[0-3]","bond[^a-c]?","vlan.100"] Unsupported AGE`},
		{"peers", `
NAME ADDRESS INTERFACE ASN UP TOTAL ACCEPTED AGE
tor 2001:db8::1 4200000000 2 3 SecretMissing AGE`},
		{"bgpadv", `
NAME POOLS PEERS COMMUNITIES ACCEPTED AGE
world ["edge"] ["tor"] ["64512:100","large:4200000000:1:2","no-export","customer-1"] Conflict AGE`},
		{"bfd", `
NAME RECEIVE TRANSMIT MULTIPLIER ACCEPTED AGE
fast 50 60 5 Unsupported AGE`},
		{"communities", `
NAME COMMUNITIES ACCEPTED AGE
provider [{"name":"customer-1","value":"64512:100"},{"name":"Everyone","value":"large:4200000000:0:4294967295"},{"name":"a","value":"blackhole"}] DuplicateName AGE`},
		{"speakers", `
NAME L2-ADDRESSES BGP-UP BGP-TOTAL MEMBERS VERSION AGE
node1 2 1 2 3 v0.1.0 AGE`},
	} {
		out, err := current.Cluster.Kubectl(t.Context(), "get", c.resource)
		if err != nil {
			t.Errorf("%s: %v", c.resource, err)
			continue
		}
		var got string
		for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
			words := strings.Fields(line)
			if i > 0 {
				words[len(words)-1] = "AGE"
			}
			got += "\n" + strings.Join(words, " ")
		}
		if got != c.want {
			t.Errorf("kubectl get %s:%s\nwant:%s", c.resource, got, c.want)
		}
	}
	out, err := current.Cluster.Kubectl(t.Context(), "get", "belfry", "-o", "name")
	if got := strings.Count(out, "belfry.dev/"); err != nil || got != len(definitions(t)) {
		t.Errorf("kubectl get belfry: %v, %s", err, out)
	}
}
