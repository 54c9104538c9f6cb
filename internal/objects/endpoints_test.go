package objects

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/lb"
)

// endpoints makes a slice of endpoints written "node:rst": ready, serving and
// terminating, each + for true, - for false, . for unset.
func endpoints(family discoveryv1.AddressType, texts ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: family,
	}
	for _, text := range texts {
		node, flags, _ := strings.Cut(text, ":")
		var e discoveryv1.Endpoint
		if node != "" {
			e.NodeName = &node
		}
		for i, p := range []**bool{&e.Conditions.Ready, &e.Conditions.Serving, &e.Conditions.Terminating} {
			if flags[i] != '.' {
				b := flags[i] == '+'
				*p = &b
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func TestEndpointsAreCountedByNodeAndReadiness(t *testing.T) {
	type on = lb.NodeEndpoints
	const v4, v6 = discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	none := lb.Endpoints{}
	four := func(e on) lb.Endpoints { return lb.Endpoints{IPv4: e} }
	six := func(e on) lb.Endpoints { return lb.Endpoints{IPv6: e} }
	for _, c := range []struct {
		name   string
		slices []*discoveryv1.EndpointSlice
		want   lb.Endpoints
	}{
		{"none", nil, none},
		{"ready, and ready by default", []*discoveryv1.EndpointSlice{endpoints(v4, "b:+..", "a:...", "b:++-")}, four(on{"a": {Ready: 1}, "b": {Ready: 2}})},
		{"not ready", []*discoveryv1.EndpointSlice{endpoints(v4, "a:-..", "a:-+-", "a:---", "a:-.-")}, none},
		{"serving while terminating, also by default", []*discoveryv1.EndpointSlice{endpoints(v6, "a:-++", "a:--+", "b:-.+")}, six(on{"a": {Terminating: 1}, "b": {Terminating: 1}})},
		{"without a node", []*discoveryv1.EndpointSlice{endpoints(v6, ":+..")}, six(on{"": {Ready: 1}})},
		{"several slices", []*discoveryv1.EndpointSlice{endpoints(v4, "a:+.."), endpoints(v4, "a:+..", "b:-++")}, four(on{"a": {Ready: 2}, "b": {Terminating: 1}})},
		{"each family for itself", []*discoveryv1.EndpointSlice{endpoints(v4, "a:+.."), endpoints(v6, "a:+..", "a:+..", "b:+..")}, lb.Endpoints{IPv4: on{"a": {Ready: 1}}, IPv6: on{"a": {Ready: 2}, "b": {Ready: 1}}}},
		{"names take no traffic", []*discoveryv1.EndpointSlice{endpoints(discoveryv1.AddressTypeFQDN, "a:+..")}, none},
	} {
		var all []*Slice
		for _, s := range c.slices {
			reduced := ReadSlice(s)
			if reduced.Service != (lb.ServiceKey{Namespace: "ns", Name: "web"}) {
				t.Errorf("%s: of service %v", c.name, reduced.Service)
			}
			all = append(all, &reduced)
		}
		if got := SumSlices(all); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %v", c.name, got, c.want)
		}
	}
}

func TestNodeIsReduced(t *testing.T) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"zone": "1"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "example.com/leave", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: "a"},
				{Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
				{Type: corev1.NodeInternalIP, Address: "2001:db8::a"},
				{Type: corev1.NodeInternalIP, Address: "192.0.2.10"},
				{Type: corev1.NodeExternalIP, Address: "192.0.2.10"},
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}, {Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}},
		},
	}
	got := (Scope{}).Node(n)
	if fmt.Sprint(got.Addresses) != "[2001:db8::a 192.0.2.10 203.0.113.1]" || got.Name != "a" || got.Labels["zone"] != "1" || !got.NetworkUnavailable || !got.NotReady || got.Drain {
		t.Errorf("%+v", got)
	}
	if !(Scope{DrainTaint: "example.com/leave"}).Node(n).Drain {
		t.Error("the named taint does not drain")
	}
	// A node whose kubelet is not heard of any more is Unknown, which is not ready.
	for status, notReady := range map[corev1.ConditionStatus]bool{corev1.ConditionTrue: false, corev1.ConditionFalse: true, corev1.ConditionUnknown: true} {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}, {Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionUnknown}}
		if got := (Scope{}).Node(n); got.NotReady != notReady || got.NetworkUnavailable {
			t.Errorf("Ready and NetworkUnavailable %s: %+v", status, got)
		}
	}
	for value, drains := range map[string]bool{"true": true, "false": false, "": false} {
		n.Annotations = map[string]string{"belfry.dev/drain": value}
		if got := (Scope{}).Node(n).Drain; got != drains {
			t.Errorf("annotation %q drains: %v, want %v", value, got, drains)
		}
	}
}

func TestANodeSaysHowItsFailureIsDetected(t *testing.T) {
	for text, want := range map[string]lb.Detection{
		"": lb.DetectAsConfigured, "fast": lb.DetectFast, "standard": lb.DetectStandard, "quick": lb.DetectAsConfigured,
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{AnnotationDetection: text}}}
		if got := (Scope{}).Node(n).Detection; got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
