package objects

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// To kube-proxy zeros before a number mean nothing, so what it would take for itself is
// seen here however it is written.
func TestAddressesOfCoreObjectsAreReadAsKubeProxyDoes(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.10":                   "192.0.2.10",
		"192.0.2.010":                  "192.0.2.10",
		"192.000.002.0000000000000010": "192.0.2.10",
		"::ffff:192.0.2.10":            "192.0.2.10",
		"::ffff:192.0.2.010":           "192.0.2.10",
		"2001:DB8::A":                  "2001:db8::a",
		"2001:0db8:0:0::000a":          "2001:db8::a",
		"192.0.2.256":                  "",
		"192.0.2.":                     "",
		"192.0.2":                      "",
		"1.2.3.4.5":                    "",
		"192.0.2.-1":                   "",
		"192.0.2.0x1":                  "",
		"2001:db8::1%eth0":             "",
		"lb.example.com":               "",
		"a.b.c.d":                      "",
		"":                             "",
		strings.Repeat(".", 1<<20):     "",
	} {
		got := ""
		if a, ok := address(text); ok {
			got = a.String()
		}
		if got != want {
			t.Errorf("%.40q is read as %q, want %q", text, got, want)
		}
	}
	s := &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: []string{"192.0.2.010", "2001:DB8::A"}}}
	if got := fmt.Sprint(ExternalIPs(s)); got != "[192.0.2.10 2001:db8::a]" {
		t.Errorf("externalIPs are %s", got)
	}
	n := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.011"}, {Type: corev1.NodeExternalIP, Address: "2001:DB8::B"},
	}}}
	if got := fmt.Sprint((Scope{}).Node(n).Addresses); got != "[192.0.2.11 2001:db8::b]" {
		t.Errorf("a Node's addresses are %s", got)
	}
	shown, exact := assigned([]corev1.LoadBalancerIngress{{IP: "192.0.2.012"}, {IP: "2001:DB8::C"}})
	if fmt.Sprint(shown) != "[192.0.2.12 2001:db8::c]" || exact {
		t.Errorf("a status shows %v, exact %v", shown, exact)
	}
}

// Whoever announces goes by the record, where there is one: what another writer puts in
// its place, or beside it, was not given.
func TestWhatTheRecordDoesNotNameIsNotAnnounced(t *testing.T) {
	for _, c := range []struct{ record, shown, want string }{
		{"", "192.0.2.1 2001:db8::1", "[192.0.2.1 2001:db8::1]"},
		{"by second", "192.0.2.1 2001:db8::1", "[]"},
		{"by belfry-system", "2001:db8::1", "[]"},
		{"192.0.2.1 from edge, 2001:db8::1 from edge", "192.0.2.1 2001:db8::1", "[192.0.2.1 2001:db8::1]"},
		{"192.0.2.1 from edge, 2001:db8::1 from edge", "192.0.2.9 2001:db8::1", "[2001:db8::1]"},
		{"192.0.2.1 from edge, 2001:db8::1 from edge", "192.0.2.9 2001:db8::9", "[]"},
		{"192.0.2.1 from edge; by second", "192.0.2.9 192.0.2.1 2001:db8::9", "[192.0.2.1]"},
		{"2001:db8::1 from six", "2001:db8::9 2001:db8::1", "[2001:db8::1]"},
	} {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
		for ip := range strings.FieldsSeq(c.shown) {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
		if c.record != "" {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: string(ConditionRecorded), Status: "True", Reason: "Recorded", Message: c.record})
		}
		got := Scope{Role: Announcing}.Service(s)
		if fmt.Sprint(got.Assigned) != c.want {
			t.Errorf("recorded %q and shown %s: announced are %v, want %s", c.record, c.shown, got.Assigned, c.want)
		}
		for _, a := range got.Assigned {
			if from := got.RecordOf(a); strings.Contains(c.record, " from ") != (from != "") {
				t.Errorf("recorded %q: %v is from %q", c.record, a, from)
			}
		}
	}
}
