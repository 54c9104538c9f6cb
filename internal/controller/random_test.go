package controller_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/kube/apitest"
)

// A randomWorld is a cluster that people change in every way, while writes fail at
// times. It is small, so that its Services meet on addresses, pools and nodes.
type randomWorld struct {
	*bubble
	rand *rand.Rand
}

// newRandomWorld has a second node, a pool that is soon full, and an advertisement. Stream
// tells the random numbers of one test from those of another.
func newRandomWorld(b *bubble, seed, stream uint64) randomWorld {
	b.Helper()
	b.node("node2")
	b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
	b.advertise()
	return randomWorld{b, rand.New(rand.NewPCG(seed, stream))}
}

func (w randomWorld) one(of ...string) string { return of[w.rand.IntN(len(of))] }

func (w randomWorld) chance(percent int) bool { return w.rand.IntN(100) < percent }

// service is one of six, in any shape.
func (w randomWorld) randomService() {
	w.expose(w.one("a", "b", "c", "d", "e", "f"), func(s *corev1.Service) {
		if was, ok := apitest.Get(w.api, s); ok {
			was.Spec, was.Labels = s.Spec, nil
			*s = *was
			for _, of := range []string{"allow-shared-ip", "address-pool", "loadBalancerIPs"} {
				delete(s.Annotations, "belfry.dev/"+of)
			}
		}
		if w.chance(60) {
			annotated("belfry.dev/allow-shared-ip", w.one("key", "lock"))(s)
			s.Spec.Ports[0].Port = int32(80 + w.rand.IntN(8))
		}
		if w.chance(20) {
			annotated("belfry.dev/address-pool", w.one("edge", "spare"))(s)
		}
		if w.chance(20) {
			annotated("belfry.dev/loadBalancerIPs", w.one("192.0.2.1,2001:db8::1", "192.0.2.2,2001:db8::2", "198.51.100.1"))(s)
		}
		if w.chance(10) {
			annotated("belfry.dev/reallocate", w.one("1", "2"))(s)
		}
		if w.chance(30) {
			single(s)
		}
		if w.chance(20) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		if w.chance(10) {
			s.Spec.Type = corev1.ServiceTypeClusterIP
			s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
		}
		if w.chance(10) {
			s.Spec.LoadBalancerClass = new("example.com/other")
		}
		s.Labels = map[string]string{"tier": w.one("one", "two")}
	})
}

func (w randomWorld) randomNode() {
	name := w.one("node1", "node2", "node3")
	if w.chance(25) {
		w.api.Delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		return
	}
	w.node(name, func(n *corev1.Node) {
		n.Labels = map[string]string{"zone": w.one("one", "two")}
		if w.chance(20) {
			n.Labels["node.kubernetes.io/exclude-from-external-load-balancers"] = ""
		}
		if w.chance(20) {
			n.Status.Addresses = []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: w.one("192.0.2.1", "203.0.113.1")},
				{Type: corev1.NodeInternalIP, Address: w.one("2001:db8::1", "2001:db8:9::1")},
			}
		}
	})
}

func (w randomWorld) randomPool() {
	name := w.one("edge", "spare")
	if w.chance(20) {
		w.api.Delete(&v1beta1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
		return
	}
	ranges := map[string][]v1beta1.AddressRange{"edge": {"192.0.2.0/30", "2001:db8::/126"}, "spare": {"198.51.100.0/31", "2001:db8:1::/127"}}[name]
	if w.chance(30) {
		ranges = []v1beta1.AddressRange{"192.0.2.2/31", "2001:db8::2/127", "198.51.100.1"}
	}
	w.pool(name, func(p *v1beta1.IPAddressPoolSpec) {
		p.OrphanPolicy = v1beta1.OrphanPolicy(w.one("Keep", "Reassign"))
		p.AutoAssign = new(w.chance(80))
		p.Drain = w.chance(10)
		if w.chance(20) {
			p.ServiceAllocation = &v1beta1.ServiceAllocation{PerNamespaceLimit: int32(1 + w.rand.IntN(3))}
		}
		if w.chance(10) {
			p.Retention = "soon" // not to be read
		}
	}, ranges...)
}

func (w randomWorld) randomAdvertisement() {
	meta := metav1.ObjectMeta{Name: w.one("first", "second")}
	zone := []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"zone": "one"}}}
	tier := []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"tier": "one"}}}
	switch w.rand.IntN(8) {
	case 0:
		w.api.Delete(&v1beta1.L2Advertisement{ObjectMeta: meta})
	case 1:
		w.api.Delete(&v1beta1.BGPAdvertisement{ObjectMeta: meta})
	case 2, 3, 4:
		ad := &v1beta1.L2Advertisement{ObjectMeta: meta}
		if was, ok := apitest.Get(w.api, ad); ok {
			ad = was
		}
		ad.Spec = v1beta1.L2AdvertisementSpec{}
		if w.chance(30) {
			ad.Spec.IPAddressPools = []v1beta1.ObjectName{"edge"}
		}
		if w.chance(30) {
			ad.Spec.NodeSelectors = zone
		}
		if w.chance(30) {
			ad.Spec.ServiceSelectors = tier
		}
		if w.chance(30) {
			ad.Annotations = map[string]string{"belfry.dev/rebalance": w.one("1", "2", "3")}
		}
		apitest.Put(w.api, ad)
	default:
		ad := &v1beta1.BGPAdvertisement{ObjectMeta: meta}
		if was, ok := apitest.Get(w.api, ad); ok {
			ad = was
		}
		ad.Spec = v1beta1.BGPAdvertisementSpec{MED: new(int64(w.rand.IntN(2)))}
		if w.chance(30) {
			ad.Spec.NodeSelectors = zone
		}
		apitest.Put(w.api, ad)
	}
}

func (w randomWorld) randomPeer() {
	peer := &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: w.one("tor", "twin")}}
	if was, ok := apitest.Get(w.api, peer); ok {
		peer = was
	}
	if w.chance(20) {
		w.api.Delete(peer)
		return
	}
	peer.Spec = v1beta1.BGPPeerSpec{
		MyASN: 65000, PeerASN: 65001, PeerAddress: v1beta1.PeerAddress(w.one("2001:db8:9::1", "192.0.2.99")),
		AddressFamilies: []v1beta1.AddressFamily{v1beta1.IPv4, v1beta1.IPv6},
	}
	if w.chance(50) {
		peer.Spec.NodeSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"zone": v1beta1.LabelValue(w.one("one", "two"))}}}
	}
	apitest.Put(w.api, peer)
}

// change changes one thing.
func (w randomWorld) change() {
	name := w.one("a", "b", "c", "d", "e", "f")
	switch w.rand.IntN(14) {
	case 0:
		w.randomNode()
	case 1:
		w.randomPool()
	case 2, 3:
		w.randomAdvertisement()
	case 4:
		w.randomPeer()
	case 5:
		w.endpoints(name)
	case 6, 7:
		w.api.Delete(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
	case 8, 9: // its owner asks, or forges what is told
		s, ok := apitest.Get(w.api, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
		if ok && len(s.Status.LoadBalancer.Ingress) > 0 {
			annotated(w.one("belfry.dev/move-to", "belfry.dev/l2-node"), w.one("node1", "node2", "node3", "nowhere", "node1 again"))(s)
			apitest.Put(w.api, s)
		}
	default:
		w.randomService()
	}
}

// insists is something that another writer puts into the status of a Service whenever it
// is not there; the addresses are those of another Service.
func (w randomWorld) insists(others []corev1.LoadBalancerIngress) (what string, undo func(*corev1.Service)) {
	proxy := corev1.LoadBalancerIPModeProxy
	each := func(edit func(*corev1.LoadBalancerIngress)) func(*corev1.Service) {
		return func(s *corev1.Service) {
			for i := range s.Status.LoadBalancer.Ingress {
				edit(&s.Status.LoadBalancer.Ingress[i])
			}
		}
	}
	shows := func(ingress ...corev1.LoadBalancerIngress) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = slices.Clone(ingress) }
	}
	switch w.rand.IntN(9) {
	case 0:
		return "a name", named
	case 1:
		return "nothing", shows()
	case 2:
		return "ports", each(func(in *corev1.LoadBalancerIngress) { in.Ports = []corev1.PortStatus{{Port: 80, Protocol: "TCP"}} })
	case 3:
		return "ipMode", each(func(in *corev1.LoadBalancerIngress) { in.IPMode = &proxy })
	case 4:
		return "addresses of no pool", shows(corev1.LoadBalancerIngress{IP: "203.0.113.7"}, corev1.LoadBalancerIngress{IP: "2001:db8:9::7"})
	case 5:
		return "a name beside", func(s *corev1.Service) {
			if !slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.Hostname != "" }) {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
			}
		}
	case 6:
		return "another Service's addresses", shows(others...)
	case 7:
		return "another Service's addresses before its own", func(s *corev1.Service) {
			if is := s.Status.LoadBalancer.Ingress; len(is) < len(others) || !slices.EqualFunc(is[:len(others)], others, func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP }) {
				s.Status.LoadBalancer.Ingress = slices.Concat(others, is)
			}
		}
	default:
		return "free addresses of a pool", shows(corev1.LoadBalancerIngress{IP: "192.0.2.3"}, corev1.LoadBalancerIngress{IP: "2001:db8::3"})
	}
}

// statuses are those of all Services but one.
func (b *bubble) statuses(but string) map[string]corev1.ServiceStatus {
	all := map[string]corev1.ServiceStatus{}
	for _, s := range apitest.List(b.api, &corev1.Service{}) {
		if s.Name != but {
			all[s.Name] = s.Status
		}
	}
	return all
}

// Whatever another writer insists on in the status of a Service, it writes its addresses
// three times a minute at most, is named, and moves neither that Service nor another.
func TestNoWriterOfAStatusMovesAServiceOfARandomWorld(t *testing.T) {
	tried := map[string]int{}
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				w := newRandomWorld(b, seed, 7)
				b.lead()
				for range 6 {
					for range 6 {
						w.change()
						b.passes(time.Duration(w.rand.IntN(50)) * time.Millisecond)
					}
					b.passes(time.Hour) // longer than any pause
					var holders, victims []*corev1.Service
					all := apitest.List(b.api, &corev1.Service{})
					slices.SortFunc(all, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
					for _, s := range all {
						if len(s.Status.LoadBalancer.Ingress) > 0 {
							holders = append(holders, s)
						}
						if meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Allocated") != nil {
							victims = append(victims, s)
						}
					}
					if len(holders) == 0 {
						continue
					}
					victim := victims[w.rand.IntN(len(victims))]
					what, undo := w.insists(holders[w.rand.IntN(len(holders))].Status.LoadBalancer.Ingress)
					// One that waits may be adopted with what others write, but takes it from nobody.
					waits := !meta.IsStatusConditionTrue(victim.Status.Conditions, "belfry.dev/Allocated")
					before, others, counted := victim.Status, b.statuses(victim.Name), b.gauges()
					b.api.Writes()
					b.told()

					r := b.rival(victim.Name, undo)
					r.wait(time.Duration(1+w.rand.IntN(3000)) * time.Millisecond)
					r.act()
					b.passes(time.Duration(2+w.rand.IntN(120)) * time.Minute)
					shown := r.addressed()
					for i := 3; i < len(shown); i++ {
						if span := shown[i].Sub(shown[i-3]); span < time.Minute {
							t.Errorf("%s: the addresses are written four times within %v", what, span)
						}
					}
					for i, writes := 6, r.written(); i < len(writes); i++ {
						if span := writes[i].Sub(writes[i-6]); span < time.Minute {
							t.Errorf("%s: seven writes within %v", what, span)
						}
					}
					is := b.service(victim.Name)
					c := meta.FindStatusCondition(is.Status.Conditions, "belfry.dev/Allocated")
					if fought := len(shown) > 2 || len(shown) > 0 && !waits; fought && (c.Reason != "Contested" || !strings.Contains(c.Message, "field manager lb-operator")) {
						t.Errorf("%s: the condition says %s: %s", what, c.Reason, c.Message)
					} else if fought {
						tried[what]++
						gave := meta.FindStatusCondition(is.Status.Conditions, "belfry.dev/Recorded").Message
						if none := !strings.Contains(gave, " from "); none != strings.Contains(c.Message, "the Service waits: ") || strings.Contains(c.Message, "keeps holds") {
							t.Errorf("%s: given was %q, and the condition says %s", what, gave, c.Message)
						}
					}
					for _, write := range b.api.Writes() {
						if write.Resource != "events" && write.Name != victim.Name && (write.Resource == "services" || !waits) {
							t.Errorf("%s in the status of %s has us %v", what, victim.Name, write)
						}
					}
					if now := b.statuses(victim.Name); !equality.Semantic.DeepEqual(now, others) {
						t.Errorf("%s in the status of %s: the others were\n%v\nand are\n%v", what, victim.Name, others, now)
					}

					r.stop()
					b.edit(victim.Name, annotated("example.com/looked", fmt.Sprint(w.rand.Int()))) // as its owner does
					b.passes(time.Hour)
					b.api.Before(nil)
					after := b.service(victim.Name).Status
					after.Conditions, before.Conditions = sincelessly(after.Conditions), sincelessly(before.Conditions)
					if !waits && !equality.Semantic.DeepEqual(after, before) {
						t.Errorf("%s: the status was\n%v\nand in the end is\n%v", what, before, after)
					}
					if again := b.gauges(); !waits && !maps.Equal(counted, again) {
						t.Errorf("%s: counted was\n%v\nand in the end is\n%v", what, counted, again)
					}
					if t.Failed() {
						return
					}
				}
			})
		})
	}
	if len(tried) < 9 {
		t.Errorf("fought was %v", tried)
	}
}

// sincelessly returns conditions without their times, sorted.
func sincelessly(conditions []metav1.Condition) []metav1.Condition {
	out := slices.Clone(conditions)
	for i := range out {
		out[i].LastTransitionTime = metav1.Time{}
	}
	slices.SortFunc(out, func(a, b metav1.Condition) int { return strings.Compare(a.Type, b.Type) })
	return out
}

// gauges are what the metrics say there is: a series that is 0 says no more than one
// that is absent.
func (b *bubble) gauges() map[string]float64 {
	b.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if !slices.Contains([]string{"belfry_services", "belfry_services_announced", "belfry_addresses", "belfry_objects", "belfry_speakers", "belfry_pool_addresses"}, f.GetName()) {
			continue
		}
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			if n := value(m); n != 0 {
				out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = n
			}
		}
	}
	return out
}

// Whatever has happened, and however writes fared meanwhile, a leader that begins
// anew finds nothing to write and counts the same: what the loop keeps from one
// pass to the next says no more than the cluster does.
func TestANewLeaderFindsNothingToCorrect(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				w := newRandomWorld(b, seed, 1)
				stop := b.lead()
				for step := range 8 {
					var mu sync.Mutex // several writers ask at the same time
					fails := rand.New(rand.NewPCG(seed, uint64(2+step)))
					b.api.Before(func(apitest.Write) *metav1.Status {
						mu.Lock()
						defer mu.Unlock()
						switch fails.IntN(10) {
						case 0:
							return apitest.Refusal(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
						case 1:
							return apitest.Refusal(http.StatusForbidden, metav1.StatusReasonForbidden)
						}
						return nil
					})
					for range 1 + w.rand.IntN(6) {
						w.change()
						b.passes(time.Duration(w.rand.IntN(50)) * time.Millisecond)
					}
					b.passes(time.Second)
					b.api.Before(nil)
					b.passes(15 * time.Minute) // longer than any pause
					b.api.Writes()
					counted := b.gauges()
					b.passes(time.Hour)
					b.wrote()
					stop()
					if left := b.gauges(); len(left) > 0 {
						t.Errorf("step %d: who leads no more counts %v", step, left)
					}
					stop = b.lead()
					b.passes(time.Minute)
					b.wrote()
					if again := b.gauges(); !maps.Equal(counted, again) {
						for k := range again {
							if again[k] != counted[k] {
								t.Errorf("step %d: %s was %v, a new leader counts %v", step, k, counted[k], again[k])
							}
						}
						for k := range counted {
							if _, has := again[k]; !has {
								t.Errorf("step %d: %s was %v, a new leader does not count it", step, k, counted[k])
							}
						}
					}
					if t.Failed() {
						return
					}
				}
			})
		})
	}
}
