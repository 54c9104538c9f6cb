package kube

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// What others change of a Service is seen, and in the part that it concerns; what we
// write ourselves, and what the speakers do, is no change of the owner's.
func TestWhatOthersDecideIsSeenByPart(t *testing.T) {
	base := func() *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{AnnotationPool: "edge", "note": "a"}, Labels: map[string]string{"a": "b"}},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
			Status: corev1.ServiceStatus{
				LoadBalancer: corev1.LoadBalancerStatus{Ingress: ours(parseRecord("192.0.2.1 from edge, 2001:db8::1 from edge").addresses)},
				Conditions: []metav1.Condition{
					{Type: string(ConditionRecorded), Status: "True", Reason: "Recorded", Message: "192.0.2.1 from edge, 2001:db8::1 from edge"},
					{Type: string(ConditionAnnounced), Status: "True", Reason: "Announced", Message: "by n1"},
				},
			},
		}
	}
	shown := func(s *corev1.Service) [NumParts]uint64 {
		return Options{Role: Allocating, Namespace: defaultNamespace}.service(s).Shown()
	}
	before := shown(base())
	proxy, vip := corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP
	all := AllParts
	for what, c := range map[string]struct {
		edit func(*corev1.Service)
		want Parts
	}{
		"nothing":           {func(*corev1.Service) {}, 0},
		"a pointer":         {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IPMode = &vip }, 0},
		"an address":        {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[1].IP = "2001:db8::2" }, Parts(0).With(PartIngress)},
		"a mode":            {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IPMode = &proxy }, Parts(0).With(PartIngress)},
		"no addresses":      {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = nil }, Parts(0).With(PartIngress)},
		"our record":        {func(s *corev1.Service) { s.Status.Conditions[0].Message = "192.0.2.1 from lab, 2001:db8::1 from edge" }, Parts(0).With(PartRecords)},
		"who announces":     {func(s *corev1.Service) { s.Status.Conditions[1].Message = "by n2" }, Parts(0).With(PartAnnounced)},
		"our annotation":    {func(s *corev1.Service) { s.Annotations[AnnotationPool] = "lab" }, Parts(0).With(PartAnnotations)},
		"the place":         {func(s *corev1.Service) { s.Annotations[AnnotationPlaced] = "n1" }, Parts(0).With(PartAnnotations)},
		"a request to move": {func(s *corev1.Service) { s.Annotations[AnnotationMove] = "n1" }, all},
		"our record of the place": {func(s *corev1.Service) {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: string(ConditionPlaced), Status: "True", Message: "192.0.2.1 on n1"})
		}, Parts(0).With(PartRecords)},
		"our record of a move": {func(s *corev1.Service) {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: string(ConditionMoved), Status: "True", Message: "n1"})
		}, Parts(0).With(PartRecords)},
		"another annotation": {func(s *corev1.Service) { s.Annotations["note"] = "b" }, all},
		"a label":            {func(s *corev1.Service) { s.Labels = nil }, all},
		"the spec":           {func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 }, all},
		"another's condition": {func(s *corev1.Service) {
			s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: "x"})
		}, 0},
	} {
		s := base()
		c.edit(s)
		after := shown(s)
		var differ Parts
		for p := range NumParts {
			if before[p] != after[p] {
				differ = differ.With(p)
			}
		}
		if differ != c.want {
			t.Errorf("%s: %04b differ, want %04b", what, differ, c.want)
		}
	}
	if digests := (ServiceWrite{}).Digests(); reflect.DeepEqual(digests, (ServiceWrite{Pools: []string{"edge"}}).Digests()) {
		t.Error("a pool makes no difference")
	}
}
