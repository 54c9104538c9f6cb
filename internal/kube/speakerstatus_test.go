package kube_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/speakerstatus"
)

// statusOf watches, as a speaker, the SpeakerStatus of a node.
func (b *bench) statusOf(c *kube.Cluster, node string) *kube.SpeakerStatus {
	b.Helper()
	s := kube.NewSpeakerStatus(b.clientsOn(node, speaker).Own, node, c.NodeUID, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		s.Run(ctx)
		close(done)
	}()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	b.eventually("it is known what the SpeakerStatus says", func() (string, bool) {
		_, known := s.Status()
		return "", known
	})
	return s
}

func (b *bench) node(c *kube.Cluster, node string) *corev1.Node {
	b.Helper()
	n, err := b.admin.CoreV1().Nodes().Create(b.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	b.must(err)
	b.Cleanup(func() {
		ctx := context.WithoutCancel(b.Context())
		_ = b.own.BelfryV1beta1().SpeakerStatuses().Delete(ctx, node, metav1.DeleteOptions{})
		_ = b.admin.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{})
	})
	b.eventually("the watch shows the node", func() (string, bool) {
		uid, ok := c.NodeUID(node)
		return string(uid), ok
	})
	return n
}

// full is a status in which nothing is left out.
func full() v1beta1.SpeakerStatusStatus {
	since := metav1.NewTime(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))
	moment := metav1.NewMicroTime(since.Add(123456 * time.Microsecond))
	return v1beta1.SpeakerStatusStatus{
		Version: "v0.1.0",
		Interfaces: []v1beta1.InterfaceStatus{
			{Name: "eth0", MAC: "02:00:00:00:00:01", Carrier: true, Usable: true, Subnets: []string{"192.0.2.0/24", "2001:db8::/64"}},
			{Name: "eth1", Reason: "no carrier"},
		},
		Phase:         v1beta1.SpeakerRunning,
		Settings:      v1beta1.SpeakerSettings{LoadBalancerClass: "example.com/lb", DrainTaint: "maintenance", IgnoreExcludeLB: true, Namespace: "belfry-system"},
		Configuration: "0123456789abcdef",
		Membership:    v1beta1.MembershipStatus{Alive: 2, Suspected: []string{"node3"}, Unheard: []string{"node4"}},
		Layer2: v1beta1.Layer2Status{
			Total:       2,
			Answers:     []v1beta1.Layer2Answers{{Interfaces: []string{"eth0"}, Addresses: []string{"192.0.2.80", "2001:db8::80"}}},
			Probing:     []string{"2001:db8::90-9f"},
			Withheld:    []v1beta1.AddressUse{{Address: "192.0.2.81", MAC: "02:00:00:00:00:99"}},
			Conflicts:   []v1beta1.AddressConflict{{Address: "192.0.2.80", MAC: "02:00:00:00:00:99", Node: "node9", Heard: "request", Since: &moment}},
			Transitions: []v1beta1.Layer2Transition{{Since: moment, Cause: v1beta1.TransitionOwnerLost, From: "node3", Count: 2, Addresses: []string{"192.0.2.80", "2001:db8::80"}}},
		},
		BGP: v1beta1.BGPStatus{Up: 1, Total: 2, Sessions: []v1beta1.SessionStatus{
			{Peer: "away", State: v1beta1.SessionConnect, LastError: "connection refused by 192.0.2.2"},
			{Peer: "tor", State: v1beta1.SessionEstablished, Since: &since, Address: "192.0.2.1", Capabilities: []string{"IPv4"}, PrefixesSent: 3, BFD: v1beta1.BFDUp, Cause: "HoldTimerExpired", Families: []v1beta1.AddressFamily{v1beta1.IPv4}},
		}},
		NotApplied: []v1beta1.NotApplied{{Kind: "BGPPeer", Name: "x", Reason: v1beta1.ReasonInvalid, Message: "spec: wrong."}},
	}
}

func TestASpeakerStatusIsWrittenOnceAndBelongsToItsNode(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(speaker, objects.Scope{})
	const node = "status-node"
	s := b.statusOf(c, node)
	if out, err := s.Write(ctx, full()); out != kube.Gone || err == nil {
		t.Fatalf("without a Node to own it: %v, %v", out, err)
	}
	owner := b.node(c, node)
	mark, err := b.lab.Cluster.AuditNow()
	b.must(err)
	write := func(want v1beta1.SpeakerStatusStatus) {
		t.Helper()
		if out, err := s.Write(ctx, want); out != kube.Done || err != nil {
			t.Fatalf("%v, %v", out, err)
		}
		// Without waiting for the watch, and once it is there.
		for range 2 {
			if out, err := s.Write(ctx, want); out != kube.Unchanged || err != nil {
				t.Fatalf("the same again: %v, %v", out, err)
			}
			b.eventually("the watch shows what was written", func() (string, bool) {
				got, err := b.own.BelfryV1beta1().SpeakerStatuses().Get(ctx, node, metav1.GetOptions{})
				return fmt.Sprint(got, err), err == nil && got.Status.Version == want.Version
			})
		}
	}
	write(full())
	writes, err := b.lab.Cluster.Writes(mark, lab.Namespace)
	b.must(err)
	if len(writes) != 2 {
		t.Errorf("writes: %v, want one to create it and one to fill it", writes)
	}
	got, err := b.own.BelfryV1beta1().SpeakerStatuses().Get(ctx, node, metav1.GetOptions{})
	b.must(err)
	if o := got.OwnerReferences; len(o) != 1 || o[0].UID != owner.UID || o[0].Kind != "Node" || o[0].Name != node {
		t.Errorf("owned by %+v", o)
	}
	// What is not there any more goes, all of it.
	write(v1beta1.SpeakerStatusStatus{Version: "v0.2.0"})
	got, err = b.own.BelfryV1beta1().SpeakerStatuses().Get(ctx, node, metav1.GetOptions{})
	b.must(err)
	if st := got.Status; st.Interfaces != nil || st.Layer2.Answers != nil || st.Layer2.Transitions != nil || st.Membership.Unheard != nil || st.BGP.Sessions != nil || st.NotApplied != nil || st.Membership.Suspected != nil {
		t.Errorf("left behind: %+v", st)
	}
	// A restarted speaker that sees the same writes nothing.
	mark, err = b.lab.Cluster.AuditNow()
	b.must(err)
	again := b.statusOf(c, node)
	if out, err := again.Write(ctx, v1beta1.SpeakerStatusStatus{Version: "v0.2.0"}); out != kube.Unchanged || err != nil {
		t.Errorf("after a restart: %v, %v", out, err)
	}
	if writes, err = b.lab.Cluster.Writes(mark, lab.Namespace); err != nil || len(writes) > 0 {
		t.Errorf("written after a restart: %v, %v", writes, err)
	}
}

func TestASpeakerStatusIsPutRight(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(speaker, objects.Scope{})
	const node = "righted-node"
	b.node(c, node)
	s := b.statusOf(c, node)
	statuses := b.own.BelfryV1beta1().SpeakerStatuses()
	// right waits until it is told, and writes what there is to write.
	right := func(want v1beta1.SpeakerStatusStatus) {
		t.Helper()
		b.eventually("the speaker is told and writes", func() (string, bool) {
			select {
			case <-s.Changed():
				out, err := s.Write(ctx, want)
				return fmt.Sprint(out, err), out == kube.Done
			default:
				return "not told", false
			}
		})
		got, err := statuses.Get(ctx, node, metav1.GetOptions{})
		b.must(err)
		if got.Status.Version != want.Version || len(got.Status.Interfaces) != len(want.Interfaces) {
			t.Errorf("it says %+v", got.Status)
		}
	}
	right(full())
	_, err := statuses.Patch(ctx, node, types.MergePatchType, []byte(`{"status":{"version":"forged","interfaces":null}}`), metav1.PatchOptions{}, "status")
	b.must(err)
	right(full())
	b.must(statuses.Delete(ctx, node, metav1.DeleteOptions{}))
	right(full())
	// An object that is not the one it read is left alone.
	b.must(statuses.Delete(ctx, node, metav1.DeleteOptions{}))
	_, err = statuses.Create(ctx, &v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	b.must(err)
	if out, err := s.Write(ctx, v1beta1.SpeakerStatusStatus{Version: "v0.3.0"}); out == kube.Done {
		// Unless the watch was quicker than we are.
		if _, known := s.Status(); !known {
			t.Errorf("written: %v, %v", out, err)
		}
	}
	right(v1beta1.SpeakerStatusStatus{Version: "v0.4.0"})
}

// prefixes returns n subnets.
func prefixes(n int) []netip.Prefix {
	var all []netip.Prefix
	for i := range n {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 1}), 24))
	}
	return all
}

// Whatever a speaker knows, the API server takes the status that is made of it.
func TestTheLargestStatusIsAccepted(t *testing.T) {
	b := newBench(t)
	c := b.cluster(speaker, objects.Scope{})
	const node = "large-node"
	b.node(c, node)
	s := b.statusOf(c, node)
	k := speakerstatus.Knowledge{Node: node, Version: strings.Repeat("v", 300)}
	for n := range 300 {
		k.Interfaces = append(k.Interfaces, lb.Interface{Index: n, Name: fmt.Sprintf("interface-%05d", n), MAC: lb.MAC{2}, Addresses: prefixes(100)})
		peer := strings.Repeat("p", 249) + fmt.Sprintf(".%03d", n)
		k.Routing.Sessions = append(k.Routing.Sessions, bgp.Session{Peer: lb.BGPPeer{Name: peer}})
		k.Sessions = append(k.Sessions, bgp.SessionView{
			Peer: peer, State: bgp.Connect, Since: time.Now(),
			Fault: &bgp.Fault{Cause: bgp.Malformed, Text: strings.Repeat("ü", 600)},
		})
	}
	if out, err := s.Write(t.Context(), speakerstatus.Compose(k, v1beta1.SpeakerStatusStatus{})); out != kube.Done || err != nil {
		t.Errorf("%v, %v", out, err)
	}
}

func TestThePeersSessionsAreThoseThatTheReportsTellOf(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	c := b.cluster(controller, objects.Scope{Role: objects.Allocating})
	peers := b.own.BelfryV1beta1().BGPPeers()
	const peer = "counted"
	_, err := peers.Create(ctx, &v1beta1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: peer}, Spec: v1beta1.BGPPeerSpec{MyASN: 65000, PeerASN: 64512, PeerAddress: "2001:db8::1"},
	}, metav1.CreateOptions{})
	b.must(err)
	t.Cleanup(func() { _ = peers.Delete(context.WithoutCancel(ctx), peer, metav1.DeleteOptions{}) })
	// says makes the speaker of a node say so, and the reports what comes of it.
	says := func(node string, state v1beta1.SessionState, want report.SessionCount) {
		t.Helper()
		status := v1beta1.SpeakerStatusStatus{Phase: v1beta1.SpeakerRunning, BGP: v1beta1.BGPStatus{Sessions: []v1beta1.SessionStatus{
			{Peer: peer, State: state}, {Peer: "another", State: v1beta1.SessionEstablished},
		}}}
		if state == "" {
			status.BGP.Sessions = status.BGP.Sessions[1:]
		}
		if out, err := b.statusOf(c, node).Write(ctx, status); out != kube.Done || err != nil {
			t.Fatalf("%v, %v", out, err)
		}
		b.eventually("the sessions are counted", func() (string, bool) {
			there := func(node string) (exists, ready bool) { return strings.HasPrefix(node, "counted-"), true }
			got := report.NewView(nil, c.Reports(), time.Now(), there).Sessions(peer)
			return fmt.Sprint(got), got == want
		})
	}
	for _, node := range []string{"counted-1", "counted-2"} {
		b.node(c, node)
	}
	c.Changes()
	says("counted-1", v1beta1.SessionConnect, report.SessionCount{Up: 0, Total: 1})
	if ch := c.Changes(); !ch.Reports || ch.Config {
		t.Errorf("a report is news as %+v", ch)
	}
	says("counted-1", v1beta1.SessionEstablished, report.SessionCount{Up: 1, Total: 1})
	says("counted-2", v1beta1.SessionEstablished, report.SessionCount{Up: 2, Total: 2})
	// Of two reports, the one that was written later comes later.
	says("counted-1", v1beta1.SessionConnect, report.SessionCount{Up: 1, Total: 2})
	var order []string
	for _, r := range c.Reports() {
		if strings.HasPrefix(r.Node, "counted-") {
			order = append(order, r.Node)
		}
	}
	if !slices.Equal(order, []string{"counted-2", "counted-1"}) {
		t.Errorf("the reports were written in this order: %v", order)
	}
	f := kube.ObjectStatus{
		Finding:  config.Finding{Kind: kube.KindBGPPeer, Name: peer, Generation: 1},
		Sessions: report.SessionCount{Up: 1, Total: 2},
	}
	b.eventually("the peer is known", func() (string, bool) { _, _, ok := c.Judged(f.Kind, f.Name); return "", ok })
	for _, want := range []kube.Outcome{kube.Done, kube.Unchanged} {
		if out, err := c.WriteObjectStatus(ctx, f); out != want || err != nil {
			t.Errorf("%v, %v, want %v", out, err, want)
		}
	}
	got, err := peers.Get(ctx, peer, metav1.GetOptions{})
	b.must(err)
	if got.Status.SessionsUp != 1 || got.Status.SessionsTotal != 2 || len(got.Status.Conditions) != 1 {
		t.Errorf("%+v", got.Status)
	}
	f.Sessions.Up = 2
	if c.Shows(f) {
		t.Error("the peer is taken to show another count")
	}
	// Routes that wait are told, and that they wait no more.
	for _, s := range []struct{ waits, want string }{{"IPv6 routes are not sent", "False Waiting IPv6 routes are not sent"}, {"", "True Sent "}} {
		f.Sessions.Waits = s.waits
		b.eventually("the write can be made", func() (string, bool) {
			out, err := c.WriteObjectStatus(ctx, f)
			return fmt.Sprint(out, err), out == kube.Done && err == nil
		})
		got, err := peers.Get(ctx, peer, metav1.GetOptions{})
		b.must(err)
		i := slices.IndexFunc(got.Status.Conditions, func(c metav1.Condition) bool { return c.Type == v1beta1.ConditionRoutesSent })
		if i < 0 {
			t.Fatalf("%+v", got.Status)
		}
		if c := got.Status.Conditions[i]; fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message) != s.want || len(got.Status.Conditions) != 2 {
			t.Errorf("%+v, want %s", got.Status, s.want)
		}
		b.eventually("the cluster sees it", func() (string, bool) { return "", c.Shows(f) })
	}
}
