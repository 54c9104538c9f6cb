package kube

import (
	"log/slog"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
)

func TestAReaderIsToldOfWhatADecisionDependsOn(t *testing.T) {
	c := NewCluster(&CoreClient{}, &OwnClient{}, objects.Scope{}, slog.New(slog.DiscardHandler))
	r := NewReader(c)
	version := 0
	meta := func(name string) metav1.ObjectMeta {
		version++
		return metav1.ObjectMeta{Namespace: "web", Name: name, UID: "1", ResourceVersion: strconv.Itoa(version)}
	}
	service := func(edit func(*corev1.Service)) func() error {
		return func() error {
			s := &corev1.Service{ObjectMeta: meta("a"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}
			edit(s)
			return c.services.Update(s)
		}
	}
	announced := func(s *corev1.Service) {
		s.Status.Conditions = []metav1.Condition{{Type: string(objects.ConditionAnnounced), Status: metav1.ConditionTrue, Reason: "Announced"}}
	}
	waiting := func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }
	local := func(s *corev1.Service) {
		announced(s)
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	slice := func(ready bool) func() error {
		return func() error {
			s := &discoveryv1.EndpointSlice{
				ObjectMeta: meta("a-1"), AddressType: discoveryv1.AddressTypeIPv6,
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"2001:db8::9"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
			}
			s.Labels = map[string]string{discoveryv1.LabelServiceName: "a"}
			return c.slices.Update(s)
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"it is read first", func() error { return nil }, true},
		{"nothing happens", func() error { return nil }, false},
		{"a Service comes", service(waiting), false},
		{"it has an endpoint", slice(true), false},
		{"it gets its addresses", service(func(*corev1.Service) {}), true},
		{"a condition is written", service(announced), false},
		{"its spec changes", service(local), true},
		{"it is written as it was", service(local), false},
		{"the slice is written as it was", slice(true), false},
		{"an endpoint goes", slice(false), true},
		{"an endpoint is ready", slice(true), true},
		{"a Node comes", func() error { return c.nodes.Update(&corev1.Node{ObjectMeta: meta("n")}) }, true},
		{"a Node is heard of", func() error { return c.nodes.Update(&corev1.Node{ObjectMeta: meta("n")}) }, false},
		{"an advertisement comes", func() error { return c.l2ads.Update(&v1beta1.L2Advertisement{ObjectMeta: meta("l")}) }, true},
		{"it loses its addresses", service(waiting), true},
		{"it gets them again", service(local), true},
		{"the Service goes", func() error { return c.services.Delete(&corev1.Service{ObjectMeta: meta("a")}) }, true},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if _, changed := r.Snapshot(); changed != step.want {
			t.Errorf("%s: changed is %v", step.name, changed)
		}
	}
}
