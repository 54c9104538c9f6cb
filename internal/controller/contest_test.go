package controller_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// rewrite changes the status of a Service as another writer does.
func (b *bubble) rewrite(name string, ingress ...corev1.LoadBalancerIngress) {
	b.Helper()
	b.edit(name, func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = ingress })
}

func TestAnotherWriterOfAStatusMovesNoService(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		stop := b.lead()
		b.expose("web")
		b.passes(time.Minute)
		const kept = "192.0.2.0 2001:db8:: " + waits
		b.shows("web", kept)
		name := corev1.LoadBalancerIngress{Hostname: "lb.example.com"}
		for _, ingress := range [][]corev1.LoadBalancerIngress{
			nil, {name}, {{IP: "192.0.2.9"}}, {name, {IP: "2001:db8::9"}}, {{IP: "203.0.113.7"}}, {{IP: "2001:db8::"}},
		} {
			b.rewrite("web", ingress...)
			b.passes(time.Minute)
			b.shows("web", kept)
			stop()
			b.rewrite("web", ingress...)
			b.expose("late") // which would be given what is free
			stop = b.lead()
			b.passes(time.Minute)
			b.shows("web", kept)
			b.remove("late")
			b.quiet()
		}
	})
}
