package objects

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
		return Scope{Role: Allocating, Namespace: DefaultNamespace}.Service(s).Shown()
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
