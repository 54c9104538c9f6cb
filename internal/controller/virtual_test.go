package controller_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/kube/apitest"
	"github.com/belfrylb/belfry/internal/watchdog"
)

// advertise creates or changes an advertisement by layer 2 of everything.
func (b *bubble) advertise(edit ...func(*v1beta1.L2Advertisement)) {
	ad := &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}}
	if was, ok := apitest.Get(b.api, ad); ok {
		ad = was
	}
	for _, e := range edit {
		e(ad)
	}
	apitest.Put(b.api, ad)
}

// single makes a Service one of IPv4 alone.
func single(s *corev1.Service) {
	policy := corev1.IPFamilyPolicySingleStack
	s.Spec.IPFamilyPolicy, s.Spec.ClusterIPs = &policy, []string{"10.96.0.1"}
}

// endpoints gives a Service one ready endpoint of each family on node1.
func (b *bubble) endpoints(service string) {
	yes, node := true, "node1"
	for kind, address := range map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "10.0.0.1", discoveryv1.AddressTypeIPv6: "fd00::1"} {
		apitest.Put(b.api, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: service + "-" + strings.ToLower(string(kind)), Labels: map[string]string{discoveryv1.LabelServiceName: service},
			},
			AddressType: kind,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
		})
	}
}

// placed returns where the addresses of every Service are placed, and how many
// addresses each node has.
func (b *bubble) placed() (byService map[string]string, load map[string]int) {
	byService, load = map[string]string{}, map[string]int{}
	for _, s := range apitest.List(b.api, &corev1.Service{}) {
		nodes := strings.Split(s.Annotations["belfry.dev/l2-node"], ",")
		byService[s.Name] = s.Annotations["belfry.dev/l2-node"]
		for i := range s.Status.LoadBalancer.Ingress {
			load[nodes[min(i, len(nodes)-1)]]++
		}
	}
	return byService, load
}

// spreads fails the test unless the nodes have so many addresses.
func (b *bubble) spreads(want map[string]int) {
	b.Helper()
	if byService, load := b.placed(); !maps.Equal(load, want) {
		b.Errorf("at %v the nodes have %v, want %v: %v; log:\n%s", time.Since(b.began), load, want, byService, b.log)
	}
}

func TestALoopThatHangsIsFoundOutInTime(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		released := make(chan struct{})
		loop := watchdog.New("the allocation loop", time.Second)
		b.lead(func(c *controller.Controller) {
			c.Watchdog = loop
			c.Stick("stuck", released)
		})
		if err := loop.Check(b.Context()); err != nil {
			t.Error(err)
		}
		b.expose("stuck", func(s *corev1.Service) { s.Labels = map[string]string{"stuck": ""} })
		b.passes(2 * time.Second) // an answer holds for a second
		if err := loop.Check(b.Context()); err == nil {
			t.Error("nobody notices that it hangs")
		}
		close(released)
		b.quiet()
		if err := loop.Check(b.Context()); err != nil {
			t.Error(err)
		}
		b.shows("stuck", "192.0.2.0 2001:db8:: "+waits)
	})
}

func TestPlacesStayMoveAndFollowInOneWriteEach(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.reportNothing("node1", "node2", "node3")
		b.node("node2")
		b.node("node3")
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.advertise()
		stop := b.lead()
		b.passes(time.Minute)
		b.api.Writes()
		written := func() map[string]int {
			n := map[string]int{}
			for _, w := range b.api.Writes() {
				if w.Resource == "services" {
					n[w.Name]++
				}
			}
			return n
		}
		each := map[string]int{}
		for i := range 6 {
			name := fmt.Sprintf("web-%d", i)
			b.expose(name)
			b.endpoints(name)
			each[name] = 1
		}
		b.passes(time.Minute)
		b.spreads(map[string]int{"node1": 4, "node2": 4, "node3": 4})
		if n := written(); !maps.Equal(n, each) {
			t.Errorf("writes: %v", n)
		}

		// A node that joins changes nothing. Neither does a leader that starts anew.
		before, _ := b.placed()
		b.node("node4")
		b.passes(time.Minute)
		stop()
		b.lead()
		b.expose("late")
		b.endpoints("late")
		b.passes(time.Minute)
		b.spreads(map[string]int{"node1": 4, "node2": 4, "node3": 4, "node4": 2})
		after, _ := b.placed()
		delete(after, "late")
		if n := written(); !maps.Equal(before, after) || !maps.Equal(n, map[string]int{"late": 1}) {
			t.Errorf("places %v, before %v; writes: %v", after, before, n)
		}

		// Another leader, or an operator, recorded another place: it is left there, and
		// counted there.
		place := func(on string) func(*corev1.Service) {
			return func(s *corev1.Service) {
				c := meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Placed")
				c.Message = s.Status.LoadBalancer.Ingress[0].IP + " on " + on + ", " + s.Status.LoadBalancer.Ingress[1].IP + " on " + on
			}
		}
		b.edit("web-0", place("node4"))
		b.passes(time.Minute)
		if now, _ := b.placed(); now["web-0"] != "node4" || !maps.Equal(written(), map[string]int{"web-0": 1}) {
			t.Errorf("web-0 is on %s", now["web-0"])
		}
		b.expose("counted")
		b.endpoints("counted")
		b.passes(time.Minute)
		if now, load := b.placed(); strings.Contains(now["counted"], "node4") {
			t.Errorf("node4 gets more, although it has most: %v", load)
		}
		b.remove("counted")

		// What is no place is replaced.
		for _, nowhere := range []string{"nowhere", ""} {
			b.edit("web-0", place(nowhere))
			b.passes(time.Minute)
			if now, _ := b.placed(); now["web-0"] == nowhere {
				t.Errorf("%q stays a place", nowhere)
			}
		}

		// A node that goes moves its own addresses only.
		before, _ = b.placed()
		written()
		b.api.Delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node2"}})
		b.passes(time.Minute)
		after, load := b.placed()
		n := written()
		for name := range after {
			want := 0
			if strings.Contains(before[name], "node2") {
				want = 1
			}
			if n[name] != want || want == 0 && before[name] != after[name] {
				t.Errorf("%s goes from %s to %s in %d writes", name, before[name], after[name], n[name])
			}
		}
		if least, most := min(load["node1"], load["node3"], load["node4"]), max(load["node1"], load["node3"], load["node4"]); load["node2"] > 0 || most-least > 1 {
			t.Errorf("uneven: %v", load)
		}

		// A Service that goes makes room; without an advertisement there is no place.
		b.api.Delete(&v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}})
		b.passes(time.Minute)
		b.spreads(map[string]int{"": 14})
	})
}

func TestServicesThatShareAnAddressAreWrittenTheSamePlace(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.node("node2")
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
		b.advertise()
		b.lead()
		for i := range 4 {
			b.expose(fmt.Sprintf("web-%d", i), annotated("belfry.dev/allow-shared-ip", "key"), func(s *corev1.Service) { s.Spec.Ports[0].Port = int32(80 + i) })
			b.endpoints(fmt.Sprintf("web-%d", i))
		}
		b.passes(time.Minute)
		for _, on := range []string{"node2", "node1"} {
			b.edit("web-2", annotated("belfry.dev/move-to", on))
			b.passes(time.Minute)
			b.spreads(map[string]int{on: 8})
		}
	})
}

func TestARebalancingGoesInStepsAndOutlivesItsLeader(t *testing.T) {
	inBubble(t, func(b *bubble) {
		const services = 45
		b.node("node2")
		b.pool("edge", nil, "192.0.2.0/24")
		b.advertise()
		stop := b.lead()
		for i := range services {
			b.expose(fmt.Sprintf("web-%d", i), single)
			b.endpoints(fmt.Sprintf("web-%d", i))
		}
		b.passes(time.Minute)
		b.node("node3")
		b.passes(time.Minute)
		b.api.Writes()
		left := func() string {
			ad, _ := apitest.Get(b.api, &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}})
			if ad.Status.Rebalance == nil {
				return "none"
			}
			return fmt.Sprintf("%s %d", ad.Status.Rebalance.Token, ad.Status.Rebalance.Remaining)
		}
		ask := func(token string) func(*v1beta1.L2Advertisement) {
			return func(ad *v1beta1.L2Advertisement) { ad.Annotations = map[string]string{"belfry.dev/rebalance": token} }
		}
		b.advertise(ask("monday"))
		b.quiet()
		if got := left(); got != "monday 5" {
			t.Errorf("after the first step %s is left", got)
		}
		_, load := b.placed()
		if load["node3"] != 10 {
			t.Errorf("the first step leads to %v", load)
		}
		b.passes(800 * time.Millisecond)
		if got := left(); got != "monday 5" {
			t.Errorf("within a second of the first step %s is left", got)
		}
		stop()
		b.lead()
		b.passes(3 * time.Second)
		if got := left(); got != "monday 0" {
			t.Errorf("in the end %s is left", got)
		}
		b.spreads(map[string]int{"node1": 15, "node2": 15, "node3": 15})
		n := map[string]int{}
		for _, w := range b.api.Writes() {
			if w.Resource == "services" {
				n[w.Name]++
			}
		}
		if len(n) != 15 || slices.Max(slices.Collect(maps.Values(n))) != 1 {
			t.Errorf("15 moves took these writes: %v", n)
		}
		// A new request with nothing to do is honored at once, and one that is
		// withdrawn is none.
		b.advertise(ask("tuesday"))
		b.quiet()
		if got := left(); got != "tuesday 0" {
			t.Errorf("%s is left", got)
		}
		b.wrote("patch l2advertisements all")
		// A step that cannot be written is awaited.
		b.node("node4")
		b.passes(time.Minute)
		b.refuse("services", apitest.Refusal(503, "ServiceUnavailable"))
		b.advertise(ask("wednesday"))
		b.passes(10 * time.Second)
		if got := left(); got != "wednesday 1" {
			t.Errorf("%s is left while nothing can be written", got)
		}
		b.api.Before(nil)
		b.passes(time.Minute)
		if got := left(); got != "wednesday 0" {
			t.Errorf("%s is left", got)
		}
		b.spreads(map[string]int{"node1": 11, "node2": 11, "node3": 12, "node4": 11})
	})
}

func TestWhatTheYoungerContradictsIsToldOnIt(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.reportNothing("node1")
		for i, name := range []string{"tor", "twin"} {
			address := []string{"2001:db8::1", "2001:db8::2"}[i]
			apitest.Put(b.api, &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.BGPPeerSpec{
				MyASN: 65000, PeerASN: 65001, PeerAddress: v1beta1.PeerAddress(address), AddressFamilies: []v1beta1.AddressFamily{v1beta1.IPv4, v1beta1.IPv6},
			}})
			b.passes(2 * time.Second)
		}
		older, younger := &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "z-older"}}, &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "a-younger"}}
		for med, ad := range []*v1beta1.BGPAdvertisement{older, younger} {
			ad.Spec.MED = new(int64(med + 1))
			apitest.Put(b.api, ad)
			b.passes(2 * time.Second)
		}
		b.pool("edge", nil, "192.0.2.0/24", "2001:db8:e::/64")
		b.lead()
		says := func(name, want string) {
			t.Helper()
			ad, _ := apitest.Get(b.api, &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: name}})
			c := meta.FindStatusCondition(ad.Status.Conditions, v1beta1.ConditionAccepted)
			if c == nil || !strings.HasPrefix(c.Reason+" "+string(c.Status)+" "+c.Message, want) {
				t.Errorf("at %v %s says %+v, want %s", time.Since(b.began), name, c, want)
			}
		}
		// Without an address there is nothing to disagree about.
		b.passes(time.Minute)
		says("z-older", "Accepted True")
		says("a-younger", "Accepted True")
		b.expose("web")
		b.endpoints("web")
		b.passes(2 * time.Second)
		says("z-older", "Accepted True")
		says("a-younger", "Conflict False spec.med")
		// It ends with the last Service that they disagree about.
		b.remove("web")
		b.passes(2 * time.Second)
		says("a-younger", "Accepted True")
		b.expose("web")
		b.passes(2 * time.Second)
		says("a-younger", "Conflict False spec.med")
		// A converged disagreement is not written again, and its end is told.
		b.api.Writes()
		b.told()
		b.passes(time.Hour)
		b.wrote()
		b.api.Delete(older)
		b.passes(2 * time.Second)
		says("a-younger", "Accepted True")
		// Two peers for one router: the younger holds no session.
		twin, _ := apitest.Get(b.api, &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "twin"}})
		twin.Spec.PeerAddress = "2001:db8::1"
		apitest.Put(b.api, twin)
		b.passes(2 * time.Second)
		twin, _ = apitest.Get(b.api, twin)
		if got := judged(twin.Status.Conditions); got != "Conflict" {
			t.Errorf("the younger peer is %q", got)
		}
		tor, _ := apitest.Get(b.api, &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor"}})
		if got := judged(tor.Status.Conditions); got != "Accepted" {
			t.Errorf("the older peer is %q", got)
		}
		b.tells("Normal Accepted BGPAdvertisement a-younger: ", "Warning Conflict BGPPeer twin: ")
	})
}

func TestAPoolThatShrinksListsItsOrphans(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.pool("other", func(p *v1beta1.IPAddressPoolSpec) { p.AutoAssign = new(false) }, "198.51.100.0/30", "2001:db8:1::/126")
		b.lead()
		for i := range 3 {
			b.expose(fmt.Sprintf("web-%d", i), annotated("belfry.dev/allow-shared-ip", fmt.Sprint(i)))
			b.quiet()
		}
		b.expose("also-0", annotated("belfry.dev/allow-shared-ip", "0"), annotated("belfry.dev/loadBalancerIPs", "192.0.2.0,2001:db8::"),
			func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })
		b.expose("apart", annotated("belfry.dev/address-pool", "other"))
		b.passes(time.Minute)
		b.told()
		b.pool("edge", nil, "192.0.2.2/32", "2001:db8::2/128")
		b.pool("other", func(p *v1beta1.IPAddressPoolSpec) { p.AutoAssign = new(false) }, "198.51.100.3/32", "2001:db8:1::3/128")
		b.passes(time.Minute)
		b.shows("web-1", "192.0.2.1 2001:db8::1 pool=edge Allocated=True/Orphaned Sharing=True/Recorded Announced=False/NoAdvertisement")
		b.shows("web-2", "192.0.2.2 2001:db8::2 pool=edge Allocated=True/Allocated Sharing=True/Recorded Announced=False/NoAdvertisement")
		for pool, want := range map[string]string{
			"edge":  "[{192.0.2.0 default/also-0} {192.0.2.1 default/web-1} {2001:db8:: default/also-0} {2001:db8::1 default/web-1}]",
			"other": "[{198.51.100.0 default/apart} {2001:db8:1:: default/apart}]",
		} {
			if got := fmt.Sprint(b.poolStatus(pool).Orphans); got != want {
				t.Errorf("%s: %s, want %s", pool, got, want)
			}
		}
		if got := b.metric("belfry_pool_addresses", "pool=edge", "family=IPv6", "state=orphaned"); got != 2 {
			t.Errorf("%v are counted", got)
		}
		b.tells("Warning IPOrphaned Service also-0: ", "Warning IPOrphaned Service apart: ", "Warning IPOrphaned Service web-0: ", "Warning IPOrphaned Service web-1: ")
		// It grows back: nothing is left of the orphans.
		b.pool("edge", nil, "192.0.2.0/30", "2001:db8::/126")
		b.passes(time.Minute)
		s := b.poolStatus("edge")
		if want := (v1beta1.AddressCount{Total: 4, Assigned: 3, Available: 1}); *s.IPv4 != want || *s.IPv6 != want || len(s.Orphans) > 0 {
			t.Errorf("edge: %+v %+v %v", s.IPv4, s.IPv6, s.Orphans)
		}
		b.api.Writes()
		b.passes(time.Hour)
		b.wrote()
	})
}

func TestTransitionsAreToldOnceByEvents(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.reportNothing("node1")
		b.pool("edge", nil, "192.0.2.0/32", "2001:db8::/128")
		b.advertise()
		b.lead()
		b.passes(time.Minute)
		b.tells()
		// A Service is commonly there before its endpoints are: no warning.
		b.expose("web")
		b.passes(time.Minute)
		b.shows("web", "192.0.2.0 2001:db8:: pool=edge Allocated=True/Allocated Announced=False/NoEndpoint")
		b.tells("Normal IPAllocated Service web: assigned 192.0.2.0 from pool edge and 2001:db8:: from pool edge")
		b.endpoints("web")
		b.passes(time.Minute)
		b.tells()
		// One that finds nothing free, and then does.
		b.expose("late")
		b.passes(time.Minute)
		b.shows("late", "Allocated=False/Exhausted")
		b.tells("Warning AllocationFailed Service late: it needs an IPv4 and an IPv6 address together")
		b.edit("web", func(s *corev1.Service) { s.Spec.LoadBalancerClass = new("example.com/other") })
		b.passes(time.Minute)
		b.tells("Normal IPReleased Service web: released 192.0.2.0 ", "Normal IPReleased Service web: released 2001:db8:: ", "Normal IPAllocated Service late: ")
		// An address is added to one that has another; the node is lost to announcing.
		b.pool("edge", nil, "192.0.2.0/31", "2001:db8::/127")
		b.endpoints("late")
		b.passes(time.Minute)
		b.tells()
		b.node("node1", func(n *corev1.Node) {
			n.Labels = map[string]string{"node.kubernetes.io/exclude-from-external-load-balancers": ""}
		})
		b.passes(time.Minute)
		b.tells("Warning NotAnnounced Service late: ")
		// A pool that cannot be read any more, and can again.
		b.pool("edge", func(p *v1beta1.IPAddressPoolSpec) { p.Retention = "soon" }, "192.0.2.0/31", "2001:db8::/127")
		b.passes(time.Minute)
		if got := judged(b.poolStatus("edge").Conditions); got == "Accepted" {
			t.Errorf("a bad pool is %q", got)
		}
		b.tells("Warning Invalid IPAddressPool edge: spec.retention", "Warning IPOrphaned Service late: 192.0.2.0 and 2001:db8:: ")
		b.pool("edge", nil, "192.0.2.0/31", "2001:db8::/127")
		b.passes(time.Minute)
		b.tells("Normal Accepted IPAddressPool edge: ")
	})
}

// Who may edit a Service may say once to which node it is to go. What only tells of the
// place is no request.
func TestAServiceIsMovedOnceForEachRequest(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		stop := b.lead()
		b.serve("web", dualStack)
		b.passes(time.Minute)
		is := func(want string, writes int) {
			t.Helper()
			b.passes(time.Minute)
			s := b.service("web")
			place := meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Placed").Message
			if m := meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Moved"); m != nil {
				place += fmt.Sprintf("; %s %s", m.Reason, m.Message)
			}
			n := 0
			for _, w := range b.api.Writes() {
				if w.Resource == "services" {
					n++
				}
			}
			if place != want || n != writes {
				t.Errorf("at %v it is %q after %d writes, want %q after %d; log:\n%s", time.Since(b.began), place, n, want, writes, b.log)
			}
		}
		ask := func(node string) { b.edit("web", annotated("belfry.dev/move-to", node)) }
		const on3 = "192.0.2.0 on node3, 2001:db8:: on node3"
		b.api.Writes()
		ask("node3")
		is(on3+"; Honored node3", 1)
		b.told()

		// A request that cannot be met moves nothing, and says why, once.
		ask("node9")
		is(on3+"; Refused node9", 1)
		b.tells("Warning MoveRefused Service web: belfry.dev/move-to: 192.0.2.0 may not be announced by node9: there is no such node, it is drained or excluded, or no L2Advertisement selects it; nothing is moved")
		ask("node3 again")
		is(on3+"; Honored node3 again", 1)

		// What another node took over stays there: the request was honored. So it is for
		// who leads next, and where the request is taken away and comes back.
		b.report("node1", unheard("node3"), answers("node3", "192.0.2.0", "2001:db8::"))
		b.report("node2", unheard("node3"))
		const on1 = "192.0.2.0 on node1, 2001:db8:: on node1"
		is(on1+"; Honored node3 again", 1)
		for _, step := range []func(){
			func() { b.edit("web", func(s *corev1.Service) { delete(s.Annotations, "belfry.dev/move-to") }) },
			func() { stop(); b.lead() },
			func() { ask("node3 again") },
			func() { b.edit("web", func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }) },
		} {
			step()
			is(on1+"; Honored node3 again", 0)
		}

		// The annotation that tells of the place is set right, and nothing follows it.
		for _, forged := range []string{"node2", "nowhere", ""} {
			b.edit("web", annotated("belfry.dev/l2-node", forged))
			is(on1+"; Honored node3 again", 1)
			if told := b.service("web").Annotations["belfry.dev/l2-node"]; told != "node1" {
				t.Errorf("it is told to be on %q", told)
			}
		}
	})
}

// Two peers are for one router: the younger is told so, with no advertisement at all, until
// the older one goes.
func TestTheYoungerOfTwoPeersForOneRouterIsTold(t *testing.T) {
	inBubble(t, func(b *bubble) {
		peer := func(name string) *v1beta1.BGPPeer {
			return &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.BGPPeerSpec{MyASN: 65000, PeerASN: 65001, PeerAddress: "2001:db8::1"}}
		}
		is := func(name, want string) {
			b.Helper()
			p, ok := apitest.Get(b.api, peer(name))
			if !ok || judged(p.Status.Conditions) != want {
				b.Errorf("%s is %q, want %q", name, judged(p.Status.Conditions), want)
			}
		}
		apitest.Put(b.api, peer("tor"))
		b.passes(2 * time.Second)
		apitest.Put(b.api, peer("alike"))
		b.lead()
		b.passes(time.Minute)
		is("tor", "Accepted")
		is("alike", "Conflict")
		b.api.Delete(peer("tor"))
		b.passes(time.Minute)
		is("alike", "Accepted")
	})
}
