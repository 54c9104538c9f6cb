package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/kube/apitest"
)

// logged are the lines of the log about addresses, from the message on, since they were
// asked for last.
func (b *bubble) logged() []string {
	var out []string
	for line := range strings.Lines(b.log.take()) {
		if _, message, is := strings.Cut(strings.TrimSpace(line), "msg="); is && strings.HasPrefix(message, `"address`) {
			out = append(out, message)
		}
	}
	slices.Sort(out)
	return out
}

// logs fails the test unless the log says just that about addresses.
func (b *bubble) logs(when string, want ...string) {
	b.Helper()
	b.passes(3 * time.Second)
	if got := b.logged(); !slices.Equal(got, want) {
		b.Errorf("%s, the log says\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// of makes a Service one of a single family.
func of(clusterIP string) func(*corev1.Service) {
	policy := corev1.IPFamilyPolicySingleStack
	return func(s *corev1.Service) {
		s.Annotations = map[string]string{}
		s.Spec.IPFamilyPolicy, s.Spec.ClusterIPs = &policy, []string{clusterIP}
	}
}

func TestTheLogTellsWhoGotAndGaveUpWhichAddress(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.lead()
		b.expose("one", of("fd00:96::1"))
		b.logs("exposed", `"address allocated" address=2001:db8:: service=default/one pool=edge`)
		pool := &v1beta1.IPAddressPool{}
		pool.Name = "edge"
		pool, _ = apitest.Get(b.api, pool)
		pool.Spec.Addresses = []v1beta1.AddressRange{"198.51.100.0/24", "2001:db8:1::/64"}
		apitest.Put(b.api, pool)
		b.logs("the pool shrinks", `"address orphaned" address=2001:db8:: service=default/one pool=edge`)
		b.edit("one", func(s *corev1.Service) { s.Annotations["belfry.dev/reallocate"] = "1" })
		b.logs("moved", `"address allocated" address=2001:db8:1:: service=default/one pool=edge`,
			`"address released" address=2001:db8:: service=default/one cause=Reallocated`)
		b.passes(time.Hour)
		b.logs("nothing happens")
		b.remove("one")
		b.logs("deleted", `"address released" address=2001:db8:1:: service=default/one cause=Deleted`)
	})
}

func TestAThousandServicesAreAFewLines(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "198.18.0.0/16")
		b.lead()
		for i := range 1000 {
			b.expose(fmt.Sprint("s", i), of("10.96.0.1"))
		}
		total := func(verb string) {
			t.Helper()
			b.passes(time.Minute)
			count, lines := 0, b.logged()
			for _, l := range lines {
				n := 1
				if _, many, is := strings.Cut(l, " count="); is {
					if _, err := fmt.Sscan(many, &n); err != nil {
						t.Fatal(err)
					}
				}
				if !strings.Contains(l, verb) {
					t.Errorf("%s: %s", verb, l)
				}
				count += n
			}
			if count != 1000 || len(lines) > 10 {
				t.Errorf("%d addresses %s in %d lines:\n%s", count, verb, len(lines), strings.Join(lines, "\n"))
			}
		}
		total("allocated")
		for i := range 1000 {
			b.remove(fmt.Sprint("s", i))
		}
		total("released")
	})
}
