package kube

import (
	"log/slog"
	"slices"
	"strconv"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
)

// Speakers write down which configuration they act on, so it is another one when they
// act on another, and only then: each writes then, on every node.
func TestWhatIsActedOnIsAnotherConfigurationAndLabelsAreNot(t *testing.T) {
	c := NewCluster(&CoreClient{}, &OwnClient{}, objects.Scope{}, slog.New(slog.DiscardHandler))
	pool := &v1beta1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "edge", UID: "1", Generation: 1},
		Spec:       v1beta1.IPAddressPoolSpec{Addresses: []v1beta1.AddressRange{"192.0.2.0/28", "2001:db8::/124"}},
	}
	l2 := &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all", UID: "2", Generation: 1}}
	bgp := &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "all", UID: "3", Generation: 1}}
	public := []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"public": "true"}}}
	before := ""
	for i, step := range []struct {
		name  string
		do    func()
		other bool
	}{
		{"at first", func() {}, true},
		{"labels that nothing selects", func() {
			pool.Labels = map[string]string{"public": "true"}
			l2.Labels, bgp.Labels = pool.Labels, pool.Labels
		}, false},
		{"a selector", func() { l2.Generation++; l2.Spec.IPAddressPoolSelectors = public }, true},
		{"a label beside it", func() { pool.Labels = map[string]string{"public": "true", "a": "b"} }, false},
		{"no longer selected", func() { pool.Labels = map[string]string{"a": "b"} }, true},
		{"a selector for BGP", func() { bgp.Generation++; bgp.Spec.IPAddressPoolSelectors = public }, true},
		{"selected by both", func() { pool.Labels = map[string]string{"public": "true"} }, true},
		{"a status", func() { pool.Status.Conditions = []metav1.Condition{{Type: "Accepted"}} }, false},
		{"addresses", func() { pool.Generation++; pool.Spec.Addresses = pool.Spec.Addresses[:1] }, true},
		{"made anew", func() { pool.UID = "4" }, true},
		{"being deleted", func() { pool.DeletionTimestamp = new(metav1.Now()) }, true},
	} {
		step.do()
		version := strconv.Itoa(10 + i)
		pool.ResourceVersion, l2.ResourceVersion, bgp.ResourceVersion = version, version, version
		for _, err := range []error{
			c.pools.Replace([]any{pool.DeepCopy()}, version), c.l2ads.Replace([]any{l2.DeepCopy()}, version), c.bgpads.Replace([]any{bgp.DeepCopy()}, version),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		is, _ := c.Setting()
		if other := is.Configuration != before; other != step.other {
			t.Errorf("%s: %q after %q, want another one: %v", step.name, is.Configuration, before, step.other)
		}
		before = is.Configuration
	}
}

func TestReportsAreInTheOrderOfTheirWritesAndNoneWhileTheyCannotBeRead(t *testing.T) {
	c := NewCluster(&CoreClient{}, &OwnClient{}, objects.Scope{Role: objects.Allocating}, slog.New(slog.DiscardHandler))
	reported := func() (nodes []string) {
		for i, r := range c.Reports() {
			if r.Order != i {
				t.Errorf("the report of %s is number %d at %d", r.Node, r.Order, i)
			}
			nodes = append(nodes, r.Node)
		}
		return nodes
	}
	if c.Reports() == nil {
		t.Error("before anything is written it is said to be unreadable")
	}
	for node, version := range map[string]string{"n1": "100", "n2": "9", "n3": "99"} {
		if err := c.reports.Add(&v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: node, ResourceVersion: version}}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := reported(), []string{"n2", "n3", "n1"}; !slices.Equal(got, want) {
		t.Errorf("reported in the order %v, want %v", got, want)
	}
	forbid := apierrors.NewForbidden(schema.GroupResource{Group: "belfry.dev", Resource: "speakerstatuses"}, "", nil)
	for _, k := range c.kinds {
		if k != c.reporting {
			k.met(forbid)
		}
	}
	if c.Reports() == nil {
		t.Error("others that cannot be read are no matter")
	}
	c.reporting.met(forbid)
	if got := c.Reports(); got != nil {
		t.Errorf("while reports cannot be read they say %v", got)
	}
	c.reporting.met(nil)
	if got := len(c.Reports()); got != 3 {
		t.Errorf("%d reports when they can be read again", got)
	}
}
