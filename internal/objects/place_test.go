package objects

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func placedService(t *testing.T, record, annotation string) *Service {
	t.Helper()
	vip := corev1.LoadBalancerIPModeVIP
	s := Scope{Role: Allocating}.Service(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "a", UID: "u", ResourceVersion: "7", Annotations: map[string]string{AnnotationPlaced: annotation}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
		Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &vip}, {IP: "2001:db8::1", IPMode: &vip}}},
			Conditions:   []metav1.Condition{{Type: string(ConditionAnnounced), Status: "True", Reason: "Announced", Message: "by a"}, {Type: string(ConditionPlaced), Status: "True", Reason: "Recorded", Message: record}},
		},
	})
	if s == nil {
		t.Fatal("not ours")
	}
	return s
}

func TestEachAddressHasItsPlace(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct{ record, four, six string }{
		{"", "", ""},
		{"192.0.2.1 on a, 2001:db8::1 on a", "a", "a"},
		{"2001:db8::1 on b, 192.0.2.1 on a", "a", "b"},
		{"192.0.2.1 on a", "a", ""},
		{"2001:db8::1 on b", "", "b"},
		{"192.0.2.2 on a, 2001:db8::1", "", ""},
	} {
		// The annotation is for people: what it says has no bearing.
		s := placedService(t, c.record, "forged")
		if s.PlaceOf(v4) != c.four || s.PlaceOf(v6) != c.six {
			t.Errorf("%q: %q and %q", c.record, s.PlaceOf(v4), s.PlaceOf(v6))
		}
	}
	if s := placedService(t, "192.0.2.1 on a", ""); s.PlaceOf(netip.MustParseAddr("192.0.2.2")) != "" {
		t.Error("an address that the Service does not hold has a place")
	}
}

func TestPlacesAreWrittenTogetherWithTheAddresses(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	w := ServiceWrite{Addresses: []netip.Addr{v4, v6}, Placed: []string{"a", "b"}}
	const record = "192.0.2.1 on a, 2001:db8::1 on b"
	if s := placedService(t, record, "a,b"); !s.Carries(w) {
		t.Error("what is there is written again")
	}
	for _, other := range []string{"", "192.0.2.1 on a", "192.0.2.1 on b, 2001:db8::1 on a"} {
		if s := placedService(t, other, "a,b"); s.Carries(w) {
			t.Errorf("%q is taken for %q", other, record)
		}
	}
	for _, other := range []string{"", "a", "b,a"} {
		if s := placedService(t, record, other); s.Missing(w) != Parts(0).With(PartAnnotations) {
			t.Errorf("the annotation %q is taken for a,b", other)
		}
	}
	if s := placedService(t, "192.0.2.1 on a", ""); s.Carries(ServiceWrite{Addresses: w.Addresses}) {
		t.Error("a place is left behind")
	}
}
