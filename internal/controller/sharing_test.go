package controller_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// shares makes a Service one that shares its addresses with those of the same key,
// on a port of its own.
func shares(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		annotated("belfry.dev/allow-shared-ip", "key")(s)
		s.Spec.Ports[0].Port = port
	}
}

// What one of them loses or gains, those that share its addresses are told, also
// when it goes.
func TestThoseWhoShareAnAddressAreJudgedTogether(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.advertise()
		b.lead()
		silent := func(name string, want bool) {
			t.Helper()
			if got := b.carries(name); strings.Contains(got, "Announced=False/NoEndpoint") != want || !strings.Contains(got, "192.0.2.0 2001:db8::") {
				t.Errorf("at %v %s shows %q", time.Since(b.began), name, got)
			}
		}
		b.endpoints("with")
		b.expose("without", shares(81))
		b.passes(time.Minute)
		silent("without", true)
		for i, leave := range []func(){
			func() {
				b.edit("with", func(s *corev1.Service) { s.Annotations["belfry.dev/allow-shared-ip"] = "other" })
			},
			func() {
				b.edit("with", func(s *corev1.Service) { s.Spec.LoadBalancerClass = new("example.com/other") })
			},
			func() { b.remove("with") },
		} {
			if i > 0 { // a new one: the same would keep what it was given in the place of the shared one
				b.remove("with")
				b.quiet()
			}
			b.expose("with", shares(80))
			b.edit("without", func(s *corev1.Service) { // as it is told by a speaker
				meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: "belfry.dev/Announced", Status: metav1.ConditionTrue, Reason: "Announced"})
			})
			b.passes(time.Minute)
			silent("with", false)
			silent("without", false)
			leave()
			b.passes(time.Minute)
			silent("without", true)
		}
	})
}

// A pool names no holder of an orphan that has gone, although others hold it still.
func TestTheHolderOfAnOrphanIsOneThatHoldsIt(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.lead()
		for i := range 3 {
			b.expose(fmt.Sprintf("web-%d", i), shares(int32(80+i)))
		}
		b.passes(time.Minute)
		b.pool("edge", nil, "192.0.2.2/31", "2001:db8::2/127")
		b.passes(time.Minute)
		holder := func(want string) {
			t.Helper()
			b.passes(time.Minute)
			if got := b.poolStatus("edge").Orphans; fmt.Sprint(got) != fmt.Sprint([]v1beta1.OrphanedAddress{{Address: "192.0.2.0", Service: want}, {Address: "2001:db8::", Service: want}}) {
				t.Errorf("orphans: %v, want holder %s", got, want)
			}
		}
		holder("default/web-0")
		b.remove("web-0")
		holder("default/web-1")
		b.edit("web-1", annotated("belfry.dev/reallocate", "1"))
		holder("default/web-2")
	})
}
