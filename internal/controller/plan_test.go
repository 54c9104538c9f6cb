package controller_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/kube/apitest"
	"github.com/belfrylb/belfry/internal/lb"
	outside "github.com/belfrylb/belfry/internal/world"
)

// world is what kubectl belfry reads at the moment.
func (b *bubble) whole() *outside.World {
	return outside.New(outside.Objects{
		Services:          apitest.List(b.api, &corev1.Service{}),
		Slices:            apitest.List(b.api, &discoveryv1.EndpointSlice{}),
		Nodes:             apitest.List(b.api, &corev1.Node{}),
		Pools:             apitest.List(b.api, &v1beta1.IPAddressPool{}),
		L2Advertisements:  apitest.List(b.api, &v1beta1.L2Advertisement{}),
		BGPAdvertisements: apitest.List(b.api, &v1beta1.BGPAdvertisement{}),
		BGPPeers:          apitest.List(b.api, &v1beta1.BGPPeer{}),
		Speakers:          apitest.List(b.api, &v1beta1.SpeakerStatus{}),
	}, outside.Settings{Namespace: b.namespace}, time.Now())
}

// holdings writes down what every Service holds, of which pool and placed where.
func holdings(services []lb.Service) map[string]string {
	out := map[string]string{}
	for i := range services {
		s := &services[i]
		if s.Foreign || len(s.Assigned) == 0 {
			continue
		}
		var all []string
		for _, a := range s.Assigned {
			all = append(all, fmt.Sprintf("%v of %q on %q", a, s.RecordOf(a), s.PlaceOf(a)))
		}
		out[s.Key.String()] = strings.Join(all, ", ")
	}
	return out
}

// Random edits are planned, and then happen: what the controller makes of them is what
// the plan said, of each Service its addresses, their pools, their places and its
// condition.
func TestAPlanIsWhatThenHappens(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 6
	}
	compared := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				w := newRandomWorld(b, seed, 7)
				for _, name := range []string{"a", "b", "c", "d"} {
					b.expose(name)
					b.endpoints(name)
				}
				stop := b.lead()
				for step := range 12 {
					stop()
					var before strings.Builder
					fmt.Fprint(&before, holdings(b.whole().Snapshot.Services))
					for range 1 + w.rand.IntN(4) {
						w.change()
					}
					for _, ad := range apitest.List(b.api, &v1beta1.L2Advertisement{}) {
						if ad.Annotations != nil { // rebalancing is an act of its own
							ad.Annotations = nil
							apitest.Put(b.api, ad)
						}
					}
					plan := b.whole().Settle()
					stop = b.lead()
					b.passes(15 * time.Minute) // longer than any pause
					is := b.whole()
					want, got := holdings(plan.Snapshot.Services), holdings(is.Snapshot.Services)
					compared += len(want)
					for key := range want {
						if got[key] != want[key] {
							t.Errorf("step %d: %s has %s, planned was %s; before: %s", step, key, got[key], want[key], before.String())
						}
					}
					for key := range got {
						if _, planned := want[key]; !planned {
							t.Errorf("step %d: %s has %s, planned was nothing; before: %s", step, key, got[key], before.String())
						}
					}
					for _, s := range apitest.List(b.api, &corev1.Service{}) {
						key := lb.ServiceKey{Namespace: s.Namespace, Name: s.Name}
						for _, c := range s.Status.Conditions {
							if d, decided := plan.Decisions[key]; c.Type == "belfry.dev/Allocated" && (!decided || d.Reason.String() != c.Reason) {
								t.Errorf("step %d: %v is told %s, planned was %v", step, key, c.Reason, d.Reason)
							}
						}
					}
					if again := outside.Compare(plan, is.Settle()); len(again.Changes) != again.Totals[outside.Stays] {
						t.Errorf("step %d: once it has happened there is more to come: %+v", step, again.Changes)
					}
					if t.Failed() {
						return
					}
				}
			})
		})
	}
	if compared < 20*int(seeds) {
		t.Errorf("only %d times a Service that holds addresses was compared", compared)
	}
}
