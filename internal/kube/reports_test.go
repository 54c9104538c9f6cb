package kube

import (
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// Speakers write down which configuration they act on, so it is another one when they
// act on another, and only then: each writes then, on every node.
func TestWhatIsActedOnIsAnotherConfigurationAndLabelsAreNot(t *testing.T) {
	c := NewCluster(&CoreClient{}, &OwnClient{}, Options{})
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
