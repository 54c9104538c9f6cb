package kube

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheRivalIsWhoWritesTheStatusBesideUs(t *testing.T) {
	entry := func(manager, fields string, minute int) metav1.ManagedFieldsEntry {
		at := metav1.NewTime(time.Unix(int64(60*minute), 0))
		return metav1.ManagedFieldsEntry{Manager: manager, Time: &at, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	const ingress, conditions, spec = `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`, `{"f:status":{"f:conditions":{}}}`, `{"f:spec":{}}`
	us := entry("belfry-controller", ingress, 9)
	for _, c := range []struct {
		what    string
		managed []metav1.ManagedFieldsEntry
		want    string
	}{
		{"nobody", nil, unknownWriter},
		{"we and those who write no status", []metav1.ManagedFieldsEntry{us, entry("belfry-speaker", conditions, 9), entry("kubectl", spec, 9)}, unknownWriter},
		{"one that owns the ingress", []metav1.ManagedFieldsEntry{us, entry("lb", ingress, 1), entry("other", conditions, 2)}, "field manager lb"},
		{"the same, in another order", []metav1.ManagedFieldsEntry{entry("other", conditions, 2), entry("lb", ingress, 1), us}, "field manager lb"},
		{"of two, who wrote last", []metav1.ManagedFieldsEntry{entry("a", ingress, 1), entry("b", ingress, 2), entry("c", ingress, 1)}, "field manager b"},
		{"one that took the conditions away", []metav1.ManagedFieldsEntry{us, entry("other", `{"f:status":{}}`, 2)}, "field manager other"},
		{"what cannot be read", []metav1.ManagedFieldsEntry{entry("a", `{`, 1), {Manager: "b"}}, unknownWriter},
		{"no time", []metav1.ManagedFieldsEntry{{Manager: "a", FieldsV1: metav1.NewFieldsV1(ingress)}}, "field manager a"},
	} {
		if got := rival(c.managed); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
