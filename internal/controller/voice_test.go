package controller_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/kube/apitest"
)

// announcing makes a cluster of three nodes in which all that is exposed can be
// announced by layer 2.
func (b *bubble) announcing() {
	b.node("node2")
	b.node("node3")
	b.pool("edge", nil, "192.0.2.0/24", "198.18.0.0/20", "2001:db8::/116")
	apitest.Put(b.api, &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}})
}

// serve exposes a Service that has endpoints of both families.
func (b *bubble) serve(name string, edit ...func(*corev1.Service)) {
	for family, address := range map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "10.1.0.1", discoveryv1.AddressTypeIPv6: "fd00::1"} {
		apitest.Put(b.api, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: strings.ToLower(name + "-" + string(family)), Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: family, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}},
		})
	}
	b.expose(name, edit...)
}

// A saying is part of what a speaker reports.
type saying func(*v1beta1.SpeakerStatusStatus)

// answers says that the node answers for addresses, and had them from another node.
func answers(from string, addresses ...string) saying {
	return func(s *v1beta1.SpeakerStatusStatus) {
		s.Layer2.Total = int32(len(addresses))
		s.Layer2.Answers = []v1beta1.Layer2Answers{{Interfaces: []string{"eth0"}, Addresses: addresses}}
		s.Layer2.Transitions = []v1beta1.Layer2Transition{{
			Since: metav1.NowMicro(), Cause: v1beta1.TransitionOwnerLost, From: from, Count: int32(len(addresses)), Addresses: addresses,
		}}
	}
}

func unheard(nodes ...string) saying {
	return func(s *v1beta1.SpeakerStatusStatus) { s.Membership.Unheard = nodes }
}

func session(peer string, state v1beta1.SessionState) saying {
	return func(s *v1beta1.SpeakerStatusStatus) {
		s.BGP.Sessions = append(s.BGP.Sessions, v1beta1.SessionStatus{Peer: peer, State: state, Address: "2001:db8::fe", LastError: "hold timer expired", Families: []v1beta1.AddressFamily{v1beta1.IPv6}})
	}
}

// report has the speaker of a node write.
func (b *bubble) report(node string, sayings ...saying) {
	s := &v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if was, ok := apitest.Get(b.api, s); ok {
		s = was
	}
	s.Status = v1beta1.SpeakerStatusStatus{
		Version: "v1", Phase: v1beta1.SpeakerRunning,
		Interfaces: []v1beta1.InterfaceStatus{{Name: "eth0", MAC: "02:00:00:00:00:01", Carrier: true, Usable: true, Subnets: []string{"192.0.2.0/24", "2001:db8::/64"}}},
	}
	for _, say := range sayings {
		say(&s.Status)
	}
	apitest.Put(b.api, s)
}

// announced returns the condition's message, and where layer 2 is recorded.
func (b *bubble) announced(name string) string {
	b.Helper()
	s := b.service(name)
	c := meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Announced")
	if c == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s on %s: %s", c.Status, s.Annotations["belfry.dev/l2-node"], c.Message)
}

// says fails the test unless a Service is told just that.
func (b *bubble) says(name, want string) {
	b.Helper()
	if got := b.announced(name); got != want {
		b.Errorf("at %v service %s says %q, want %q", time.Since(b.began), name, got, want)
	}
}

// reportNothing has speakers of an older version on nodes, which do not say what they
// answer for: Services are told nothing of them.
func (b *bubble) reportNothing(nodes ...string) {
	for _, node := range nodes {
		b.report(node, func(s *v1beta1.SpeakerStatusStatus) { s.Phase = "" })
	}
}

func TestATakeoverIsToldAtOnceInOneWrite(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		b.serve("web")
		b.report("node1", answers("", "192.0.2.0", "2001:db8::"))
		b.report("node2")
		b.report("node3")
		b.lead()
		b.passes(time.Minute)
		b.says("web", "True on node1: announced by layer 2 from node node1")
		b.told()
		b.api.Writes()

		b.report("node2", unheard("node1"), answers("node1", "192.0.2.0", "2001:db8::"))
		b.passes(100 * time.Millisecond)
		b.says("web", "True on node2: announced by layer 2 from node node2")
		b.report("node3", unheard("node1"))
		b.passes(48 * time.Hour)
		b.wrote("patch services default/web")
		b.tells("Normal AnnouncementMoved Service web: moved 192.0.2.0 from node node1 to node node2, 2001:db8:: from node node1 to node node2")
		// It comes back, and takes nothing.
		b.report("node1")
		b.report("node2", answers("node1", "192.0.2.0", "2001:db8::"))
		b.report("node3")
		b.passes(48 * time.Hour)
		b.wrote()
		b.tells()
	})
}

// While no controller leads nobody is told. What was missed is told once.
func TestWhatWasMissedIsToldOnce(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		b.serve("web")
		b.report("node1", answers("", "192.0.2.0", "2001:db8::"))
		b.report("node2")
		b.report("node3")
		stop := b.lead()
		b.passes(time.Minute)
		stop()
		b.told()
		b.api.Writes()
		b.report("node2", unheard("node1"), answers("node1", "192.0.2.0", "2001:db8::"))
		b.passes(time.Hour)
		b.says("web", "True on node1: announced by layer 2 from node node1")
		for range 2 {
			stop := b.lead()
			b.passes(time.Hour)
			stop()
		}
		b.says("web", "True on node2: announced by layer 2 from node node2")
		b.wrote("patch services default/web")
		b.tells("Normal AnnouncementMoved Service web: moved 192.0.2.0 from node node1 to node node2, 2001:db8:: from node node1 to node node2")
	})
}

// A thousand addresses move with one write of a speaker. Telling their Services takes
// four seconds, after two in which their results are awaited in vain, and a Service that
// needs an address does not wait for that.
func TestAllocatingDoesNotWaitForTelling(t *testing.T) {
	const services = 1000
	inBubble(t, func(b *bubble) {
		b.announcing()
		for i := range services {
			b.serve(fmt.Sprintf("web-%d", i), func(s *corev1.Service) { s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1]; s.Spec.IPFamilyPolicy = nil })
		}
		b.report("node2")
		b.report("node3")
		b.lead()
		b.passes(time.Minute)
		all := []string{"192.0.2.0-255", "198.18.0.0-255", "198.18.1.0-255", "198.18.2.0-231"}
		b.report("node1", answers("", all...))
		b.passes(time.Minute)
		for i := range services {
			b.says(fmt.Sprintf("web-%d", i), "True on node1: announced by layer 2 from node node1")
		}
		b.told()
		b.api.Writes()

		b.report("node2", unheard("node1"), answers("node1", all...))
		b.passes(100 * time.Millisecond)
		first := time.Now()
		b.serve("urgent")
		b.passes(40 * time.Millisecond)
		if !strings.Contains(b.carries("urgent"), "Allocated=True/Allocated") {
			t.Errorf("%v after it was made it shows %q", time.Since(first), b.carries("urgent"))
		}
		if n := len(b.api.Writes()); n > 80 {
			t.Errorf("%d writes in 140 ms", n)
		}
		b.passes(7 * time.Second)
		for i := range services {
			b.says(fmt.Sprintf("web-%d", i), "True on node2: announced by layer 2 from node node2")
		}
	})
}

// verified says that the node has verified what others answer for.
func verified(node string, addresses ...string) saying {
	return func(s *v1beta1.SpeakerStatusStatus) {
		s.Layer2.Verified = []v1beta1.Layer2Verified{{Node: node, Addresses: addresses}}
	}
}

// reason returns the condition's reason.
func (b *bubble) reason(name string) string {
	b.Helper()
	return meta.FindStatusCondition(b.service(name).Status.Conditions, "belfry.dev/Announced").Reason
}

// A thousand addresses move, and another node verifies five hundred a second: most
// Services are told both with one write. One that moves alone is told at once where it is.
func TestABurstIsToldTogetherWithItsResults(t *testing.T) {
	const services = 1000
	inBubble(t, func(b *bubble) {
		b.announcing()
		for i := range services {
			b.serve(fmt.Sprintf("web-%d", i), func(s *corev1.Service) { s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1]; s.Spec.IPFamilyPolicy = nil })
		}
		all := []string{"192.0.2.0-255", "198.18.0.0-255", "198.18.1.0-255", "198.18.2.0-231"}
		b.report("node1", answers("", all...))
		b.report("node2", verified("node1", all...))
		b.report("node3")
		b.lead()
		b.passes(time.Minute)
		b.api.Writes()
		b.report("node2", unheard("node1"), answers("node1", all...))
		b.passes(500 * time.Millisecond)
		for n := range 3 { // once a second, as a speaker writes
			b.report("node3", unheard("node1"), verified("node2", all[:n+1]...))
			b.passes(time.Second)
		}
		b.report("node3", unheard("node1"), verified("node2", all...))
		b.passes(time.Minute)
		patched := 0
		for _, w := range b.api.Writes() {
			if w.Resource == "services" {
				patched++
			}
		}
		if patched > services*5/4 {
			t.Errorf("%d writes for %d Services", patched, services)
		}
		for i := range services {
			if got := b.reason(fmt.Sprintf("web-%d", i)); got != "Verified" {
				t.Fatalf("web-%d says %s", i, got)
			}
		}
		// That it was verified once more is no news.
		b.report("node3", unheard("node1"), verified("node2", all...))
		b.passes(time.Hour)
		b.wrote()
	})
}

// What is to be told waits its turn. Meanwhile another leader tells it: then it is told,
// and not once more.
func TestWhatAnotherLeaderHasToldMeanwhileIsNotToldAgain(t *testing.T) {
	const services = 50
	inBubble(t, func(b *bubble) {
		b.announcing()
		for i := range services {
			b.serve(fmt.Sprintf("web-%d", i))
		}
		b.report("node1", answers("", "192.0.2.0-49", "2001:db8::-31"))
		b.report("node2")
		b.report("node3")
		b.lead()
		b.passes(time.Minute)
		b.told()
		b.api.Writes()

		b.report("node2", unheard("node1"), answers("node1", "192.0.2.0-49", "2001:db8::-31"))
		b.passes(60 * time.Millisecond)
		for i := range services {
			b.edit(fmt.Sprintf("web-%d", i), func(s *corev1.Service) {
				s.Annotations["belfry.dev/l2-node"] = "node2"
				placed := meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Placed")
				placed.Message = strings.ReplaceAll(placed.Message, "node1", "node2")
				meta.FindStatusCondition(s.Status.Conditions, "belfry.dev/Announced").Message = "announced by layer 2 from node node2"
			})
		}
		b.passes(time.Minute)
		patched := 0
		for _, w := range b.api.Writes() {
			if w.Resource == "services" {
				patched++
			}
		}
		if told := b.told(); len(told) != patched || patched == 0 || patched == services {
			t.Errorf("after %d writes to %d Services these Events are there: %q", patched, services, told)
		}
	})
}

// The API server takes half a second for each write: a takeover is told in time.
func TestSlowWritesDoNotKeepOthersFromBeingTold(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		for i := range 10 {
			b.serve(fmt.Sprintf("web-%d", i))
		}
		b.report("node1", answers("", "192.0.2.0-9", "2001:db8::-9"))
		b.report("node2")
		b.lead()
		b.passes(time.Minute)
		b.api.Before(func(w apitest.Write) *metav1.Status {
			if w.Resource == "services" {
				time.Sleep(500 * time.Millisecond)
			}
			return nil
		})
		b.report("node2", unheard("node1"), answers("node1", "192.0.2.0-9", "2001:db8::-9"))
		b.passes(time.Second)
		for i := range 10 {
			b.says(fmt.Sprintf("web-%d", i), "True on node2: announced by layer 2 from node node2")
		}
	})
}

// A condition that was not written is written once it can be, and only then is it told
// as an Event.
func TestWhatCouldNotBeWrittenIsToldLater(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		b.serve("web")
		b.report("node1", answers("", "192.0.2.0", "2001:db8::"))
		b.report("node2")
		b.report("node3")
		b.lead()
		b.passes(time.Minute)
		b.told()
		var mu sync.Mutex
		away := true
		b.api.Before(func(w apitest.Write) *metav1.Status {
			mu.Lock()
			defer mu.Unlock()
			if away && w.Resource == "services" {
				return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable, Reason: metav1.StatusReasonServiceUnavailable}
			}
			return nil
		})
		b.report("node2", unheard("node1"), answers("node1", "192.0.2.0", "2001:db8::"))
		b.passes(10 * time.Minute)
		b.says("web", "True on node1: announced by layer 2 from node node1")
		b.tells()
		mu.Lock()
		away = false
		mu.Unlock()
		b.passes(time.Minute)
		b.says("web", "True on node2: announced by layer 2 from node node2")
		b.tells("Normal AnnouncementMoved Service web: ")
	})
}

func TestSessionsAreCountedAndToldOfNowAndThen(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		apitest.Put(b.api, &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor"}, Spec: v1beta1.BGPPeerSpec{MyASN: 65000, PeerASN: 65001, PeerAddress: "2001:db8::fe"}})
		b.report("node1", session("tor", v1beta1.SessionConnect))
		b.report("node2", session("tor", v1beta1.SessionEstablished))
		b.lead()
		b.passes(time.Minute)
		counted := func(up, total int32) {
			t.Helper()
			p, _ := apitest.Get(b.api, &v1beta1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor"}})
			if p.Status.SessionsUp != up || p.Status.SessionsTotal != total {
				t.Errorf("at %v: %d of %d, want %d of %d", time.Since(b.began), p.Status.SessionsUp, p.Status.SessionsTotal, up, total)
			}
		}
		counted(1, 2)
		b.tells() // it was so before we came
		b.report("node1", session("tor", v1beta1.SessionEstablished))
		b.passes(2 * time.Second)
		counted(2, 2)
		b.tells("Normal SessionEstablished BGPPeer tor: node node1 has a session with 2001:db8::fe")
		for range 5 {
			b.report("node1", session("tor", v1beta1.SessionConnect))
			b.passes(time.Second)
			b.report("node1", session("tor", v1beta1.SessionEstablished))
			b.passes(time.Second)
		}
		b.tells()
		b.passes(time.Minute)
		b.report("node1", session("tor", v1beta1.SessionConnect))
		b.passes(2 * time.Second)
		b.tells("Warning SessionLost BGPPeer tor: node node1 has lost the session: hold timer expired")
		// A session of a speaker that lives counts, ready or not; one in last words
		// does not.
		b.node("node2", func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
		})
		b.passes(time.Minute)
		counted(1, 2)
		b.report("node1", session("tor", v1beta1.SessionConnect), unheard("node2"))
		b.passes(time.Minute)
		counted(0, 2)
		// What a restarted speaker says first comes close on the heels of its last.
		b.report("node1")
		b.report("node1", session("tor", v1beta1.SessionConnect), session("tor6", v1beta1.SessionConnect), unheard("node2"))
		b.passes(10 * time.Millisecond)
		b.report("node1", unheard("node2"))
		b.passes(time.Minute)
		counted(0, 1)
	})
}

func TestFlagsThatDifferAreTold(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		b.report("node1", func(s *v1beta1.SpeakerStatusStatus) { s.Settings.LoadBalancerClass = "example.com/other" })
		b.report("node2")
		for range 2 { // whoever leads
			stop := b.lead()
			b.passes(time.Hour)
			b.report("node1", func(s *v1beta1.SpeakerStatusStatus) { s.Settings.LoadBalancerClass = "example.com/other" }, unheard("node3"))
			b.passes(time.Hour)
			stop()
		}
		const differs = "Warning SettingsDiffer SpeakerStatus node1: the flags of the speaker differ from the controller's: "
		b.tells(differs + `--lb-class is "example.com/other", the controller's is ""`)
		b.lead()
		b.report("node1", func(s *v1beta1.SpeakerStatusStatus) {
			s.Settings.DrainTaint, s.Settings.IgnoreExcludeLB = "x", true
		})
		b.passes(time.Minute)
		if got := b.told(); !slices.ContainsFunc(got, func(e string) bool {
			return e == differs+`--drain-taint is "x", the controller's is "", --ignore-exclude-lb is "true", the controller's is "false"`
		}) {
			t.Errorf("told: %q", got)
		}
	})
}

func TestBlockedGossipIsToldOnceByEachSideWhoeverLeads(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		began := metav1.NewTime(time.Now().Truncate(time.Second))
		blocked := func(nodes ...string) func(*v1beta1.SpeakerStatusStatus) {
			return func(s *v1beta1.SpeakerStatusStatus) {
				for _, n := range nodes {
					s.Membership.Blocked = append(s.Membership.Blocked, v1beta1.BlockedPeer{Node: n, Protocols: []string{"UDP", "TCP"}})
				}
				c := metav1.Condition{Type: v1beta1.ConditionGossipBlocked, Status: metav1.ConditionTrue, Reason: v1beta1.ReasonPortBlocked, LastTransitionTime: began}
				s.Conditions = []metav1.Condition{c}
			}
		}
		b.report("node1", blocked("node2"))
		b.report("node2", blocked("node1"))
		b.report("node3")
		stop := b.lead()
		b.passes(time.Hour)
		stop()
		b.lead()
		b.passes(time.Hour)
		const (
			one, two = "Warning GossipBlocked SpeakerStatus node1: ", "Warning GossipBlocked SpeakerStatus node2: "
			is       = "gossip is blocked between this node and %s: see that its port is open between the nodes, by UDP and by TCP"
		)
		b.tells(one+fmt.Sprintf(is, "node2 (UDP and TCP)"), two+fmt.Sprintf(is, "node1 (UDP and TCP)"))
		b.report("node1", blocked("node2", "node3"))
		b.passes(time.Minute)
		b.tells(one + fmt.Sprintf(is, "node2 (UDP and TCP), node3 (UDP and TCP)"))
		// One whose report counts no more has not said that it ended.
		b.report("node1")
		b.report("node3", unheard("node1", "node2")) // but what they say of themselves is told
		b.passes(time.Minute)
		b.tells("Normal GossipRestored SpeakerStatus node1: gossip is not blocked any more between this node and others")
		b.report("node2")
		b.report("node3")
		b.passes(time.Minute)
		b.tells("Normal GossipRestored SpeakerStatus node2: gossip is not blocked any more between this node and others")
	})
}

func TestAStrangerIsToldOfOnceWhoeverLeads(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		b.serve("web")
		heard := metav1.NowMicro()
		stranger := func(s *v1beta1.SpeakerStatusStatus) {
			s.Layer2.Conflicts = []v1beta1.AddressConflict{{Address: "2001:db8::", MAC: "02:00:00:00:00:99", Heard: "announcement", Since: &heard}}
		}
		b.report("node1", answers("", "192.0.2.0", "2001:db8::"))
		b.report("node2")
		stop := b.lead()
		b.passes(time.Minute)
		b.told()
		b.report("node1", answers("", "192.0.2.0", "2001:db8::"), stranger)
		b.passes(time.Second)
		stop()
		b.lead()
		b.passes(time.Minute)
		b.tells("Warning AddressConflict Service web: station 02:00:00:00:00:99 uses the address 2001:db8:: too (announcement)")
		b.says("web", "True on node1: announced by layer 2 from node node1")
	})
}

// What a speaker of an older version wrote itself stays, and so does what was told of
// a node whose speaker cannot write. The log says which they are.
func TestNothingIsMadeUpForASpeakerThatDoesNotReport(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.announcing()
		b.serve("web")
		b.report("node1", answers("", "192.0.2.0", "2001:db8::"))
		b.report("node2")
		b.report("node3")
		b.lead()
		b.passes(time.Minute)
		b.told()
		old := func(s *v1beta1.SpeakerStatusStatus) { s.Phase = "" }
		b.report("node1", old)
		b.passes(time.Hour)
		b.says("web", "True on node1: announced by layer 2 from node node1")
		b.api.Delete(&v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}})
		b.passes(time.Hour)
		b.says("web", "True on node1: announced by layer 2 from node node1")
		b.tells()
		if n := strings.Count(b.log.String(), "a speaker lives and does not report what it does"); n != 1 {
			t.Errorf("the log says %d times that a speaker does not report", n)
		}
		// It does not live.
		b.report("node2", unheard("node1"))
		b.report("node3", unheard("node1"))
		b.passes(time.Minute)
		b.tells("Warning NotAnnounced Service web: ")
		if c := meta.FindStatusCondition(b.service("web").Status.Conditions, "belfry.dev/Announced"); c.Reason != "Unclaimed" {
			t.Errorf("%+v", c)
		}
	})
}
