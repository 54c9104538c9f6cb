package controller_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/kube/apitest"
)

// counts fails the test unless the gauges are as given; a series that is not there
// counts as 0.
func (b *bubble) counts(when string, want map[string]float64) {
	b.Helper()
	got := b.gauges()
	for series, n := range want {
		if got[series] != n {
			b.Errorf("%s: %s is %v, want %v", when, series, got[series], n)
		}
	}
}

// What the one alert is about that matters most: a Service that has an address which
// nothing announces.
func TestGaugesTellWhatBecomesOfEachAddress(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		b.serve("web")
		b.report("node1", answers("", "192.0.2.0", "2001:db8::"), unheard("node3"))
		b.report("node2", unheard("node3"))
		b.lead()
		b.passes(time.Minute)
		b.counts("announced", map[string]float64{
			"belfry_addresses{protocol=layer2,state=announced}":                 2,
			"belfry_addresses{protocol=layer2,state=unannounced}":               0,
			"belfry_services_announced{announced=true,reason=Announced}":        1,
			"belfry_speakers{state=reporting}":                                  2,
			"belfry_speakers{state=absent}":                                     1,
			"belfry_objects{kind=IPAddressPool,reason=Accepted}":                1,
			"belfry_objects{kind=L2Advertisement,reason=Accepted}":              1,
			"belfry_services_announced{announced=false,reason=Unclaimed}":       0,
			"belfry_addresses{protocol=none,state=unannounced}":                 0,
			"belfry_services_announced{announced=false,reason=NoAdvertisement}": 0,
		})

		b.report("node1", unheard("node3"))
		b.passes(time.Minute)
		b.counts("nobody answers", map[string]float64{
			"belfry_addresses{protocol=layer2,state=announced}":           0,
			"belfry_addresses{protocol=layer2,state=unannounced}":         2,
			"belfry_services_announced{announced=true,reason=Announced}":  0,
			"belfry_services_announced{announced=false,reason=Unclaimed}": 1,
		})

		// Node3 has a speaker that does not report: it may be the one that answers.
		b.report("node1")
		b.report("node2")
		b.passes(time.Minute)
		b.counts("one speaker is unknown", map[string]float64{
			"belfry_addresses{protocol=layer2,state=unknown}":     2,
			"belfry_addresses{protocol=layer2,state=unannounced}": 0,
			"belfry_speakers{state=unknown}":                      1,
			"belfry_speakers{state=absent}":                       0,
		})
		b.report("node2", unheard("node3"))

		b.report("node1", answers("", "192.0.2.0"), unheard("node3"), func(s *v1beta1.SpeakerStatusStatus) {
			s.Layer2.Withheld = []v1beta1.AddressUse{{Address: "2001:db8::", MAC: "02:00:00:00:00:99"}}
		})
		b.passes(time.Minute)
		b.counts("a stranger", map[string]float64{
			"belfry_addresses{protocol=layer2,state=announced}":                 1,
			"belfry_addresses{protocol=layer2,state=withheld}":                  1,
			"belfry_services_announced{announced=false,reason=AddressConflict}": 1,
		})
		b.report("node2", answers("node1", "192.0.2.0", "2001:db8::"), unheard("node1", "node3"))
		b.passes(time.Minute)
		b.counts("a lost speaker", map[string]float64{
			"belfry_addresses{protocol=layer2,state=announced}": 2,
			"belfry_addresses{protocol=layer2,state=withheld}":  0,
			"belfry_speakers{state=reporting}":                  1,
			"belfry_speakers{state=lost}":                       1,
		})

		apitest.Put(b.api, &v1beta1.BGPAdvertisement{
			ObjectMeta: metav1.ObjectMeta{Name: "routed"}, Spec: v1beta1.BGPAdvertisementSpec{Peers: []v1beta1.ObjectName{"nowhere"}},
		})
		b.passes(time.Minute)
		b.counts("BGP is asked, too", map[string]float64{
			"belfry_addresses{protocol=bgp,state=unannounced}":           2,
			"belfry_addresses{protocol=layer2,state=announced}":          2,
			"belfry_objects{kind=BGPAdvertisement,reason=UnknownName}":   1,
			"belfry_services_announced{announced=true,reason=Announced}": 1,
		})

		b.api.Delete(&v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}})
		b.api.Delete(&v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "routed"}})
		b.report("node2", unheard("node1", "node3"))
		b.passes(time.Minute)
		b.counts("no protocol is asked", map[string]float64{
			"belfry_addresses{protocol=none,state=unannounced}":                 2,
			"belfry_addresses{protocol=bgp,state=unannounced}":                  0,
			"belfry_addresses{protocol=layer2,state=announced}":                 0,
			"belfry_objects{kind=L2Advertisement,reason=Accepted}":              0,
			"belfry_objects{kind=BGPAdvertisement,reason=UnknownName}":          0,
			"belfry_services_announced{announced=false,reason=NoAdvertisement}": 1,
		})

		b.remove("web")
		b.passes(time.Minute)
		b.counts("no Service", map[string]float64{
			"belfry_addresses{protocol=none,state=unannounced}":                 0,
			"belfry_services_announced{announced=false,reason=NoAdvertisement}": 0,
		})
	})
}
