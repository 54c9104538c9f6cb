package lab

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	someMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	v4      = netip.MustParseAddr("198.51.100.200")
	v6      = netip.MustParseAddr("2001:db8:51::200")
)

// arpFrame is a frame of RFC 826.
func arpFrame(op byte, sender, target netip.Addr) []byte {
	return slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, someMAC, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, op},
		someMAC, sender.AsSlice(), make([]byte, 6), target.AsSlice())
}

// naFrame is an advertisement as RFC 4861 draws it.
func naFrame(flags byte, target netip.Addr, options ...byte) []byte {
	icmp := slices.Concat([]byte{136, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice(), options)
	return slices.Concat([]byte{0x33, 0x33, 0, 0, 0, 1}, someMAC, []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255},
		netip.MustParseAddr("fe80::1").AsSlice(), netip.MustParseAddr("ff02::1").AsSlice(), icmp)
}

func TestAFrameIsReadAsTheClaimItIs(t *testing.T) {
	other := netip.MustParseAddr("198.51.100.3")
	otherMAC := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for name, test := range map[string]struct {
		frame []byte
		want  Claim
	}{
		"ARP reply":              {arpFrame(2, v4, other), Claim{Kind: ARPReply, Address: v4, MAC: someMAC}},
		"ARP request":            {arpFrame(1, v4, other), Claim{Kind: ARPRequest, Address: v4, MAC: someMAC}},
		"gratuitous ARP request": {arpFrame(1, v4, v4), Claim{Kind: ARPAnnounce, Address: v4, MAC: someMAC}},
		"gratuitous ARP reply":   {arpFrame(2, v4, v4), Claim{Kind: ARPGratuitousReply, Address: v4, MAC: someMAC}},
		"unsolicited NA":         {naFrame(0x20, v6), Claim{Kind: UnsolicitedNA, Address: v6, MAC: someMAC, Override: true}},
		"solicited NA": {
			naFrame(0x60, v6, append([]byte{2, 1}, otherMAC...)...),
			Claim{Kind: SolicitedNA, Address: v6, MAC: otherMAC, Override: true},
		},
	} {
		got, ok := parseClaim(test.frame)
		if !ok {
			t.Errorf("%s: not seen", name)
			continue
		}
		if got.Kind != test.want.Kind || got.Address != test.want.Address || !slices.Equal(got.MAC, test.want.MAC) || got.Override != test.want.Override {
			t.Errorf("%s: read as %+v, want %+v", name, got, test.want)
		}
	}
	for name, frame := range map[string][]byte{
		"ARP probe":         arpFrame(1, netip.IPv4Unspecified(), v4),
		"short ARP":         arpFrame(2, v4, v4)[:30],
		"empty":             {},
		"NA cut short":      naFrame(0x20, v6)[:60],
		"a question for v4": question(someMAC, netip.IPv4Unspecified(), v4),
		"a question for v6": question(someMAC, netip.MustParseAddr("fe80::1"), v6),
	} {
		if got, ok := parseClaim(frame); ok {
			t.Errorf("%s: read as the claim %+v", name, got)
		}
	}
}

func FuzzParseClaim(f *testing.F) {
	f.Add(arpFrame(2, v4, v4))
	f.Add(naFrame(0x60, v6, append([]byte{2, 1}, someMAC...)...))
	f.Add(naFrame(0x60, v6, 2, 0))
	f.Fuzz(func(t *testing.T, frame []byte) {
		c, ok := parseClaim(frame)
		if ok && (!c.Address.IsValid() || len(c.MAC) != 6) {
			t.Errorf("%x is the claim %+v", frame, c)
		}
	})
}

func TestAReplyTellsNodePodAndClient(t *testing.T) {
	got, err := parseReply("node=node1 pod=web-1 client=2001:db8:51::3\n")
	if want := (Reply{Node: "node1", Pod: "web-1", Client: netip.MustParseAddr("2001:db8:51::3")}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "node=node1", "node=node1 pod=web-1 client=nobody", "<html>"} {
		if got, err := parseReply(bad); err == nil {
			t.Errorf("%q is the reply %+v", bad, got)
		}
	}
}

func TestAReportCountsGapsAndContests(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	asked := func(ms int, hosts ...string) Question {
		q := Question{At: at(ms)}
		for _, h := range hosts {
			q.Answers = append(q.Answers, Answer{At: at(ms + 1), Host: h})
		}
		return q
	}
	r := Report{Address: v6, Questions: []Question{
		asked(0, "node1"), asked(10, "node1"), asked(20), asked(30), asked(40, "node2", "node1"), asked(50, "node2"),
	}}
	if got := len(r.Unanswered()); got != 2 {
		t.Errorf("%d unanswered, want 2", got)
	}
	if c := r.Contested(); len(c) != 1 || !c[0].At.Equal(at(40)) {
		t.Errorf("contested: %v, want the one at 40 ms", c)
	}
	if gap, from := r.LongestGap(); gap != 30*time.Millisecond || !from.Equal(at(11)) {
		t.Errorf("longest gap %s from %s, want 30 ms from 11 ms", gap, from)
	}
	if got := r.Since(at(45)); len(got.Questions) != 1 {
		t.Errorf("since 45 ms: %d questions, want 1", len(got.Questions))
	}
	var who []string
	for _, s := range r.Timeline() {
		who = append(who, strings.Join(s.Hosts, "+"))
	}
	if want := []string{"node1", "", "node1+node2", "node2"}; !slices.Equal(who, want) {
		t.Errorf("timeline %q, want %q", who, want)
	}
	silent := Report{Questions: []Question{asked(0, "node1"), asked(10), asked(500)}}
	if gap, _ := silent.LongestGap(); gap != 499*time.Millisecond {
		t.Errorf("a silence that lasts to the end is %s, want 499 ms", gap)
	}
}

func TestTheVersionIsTheOneThatGoModRequires(t *testing.T) {
	mod := []byte("module x\n\nrequire (\n\tk8s.io/kubectl v0.0.0 // indirect\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\nreplace k8s.io/kubernetes/x => k v1.0.0\n")
	if got, err := requiredVersion(mod, "k8s.io/kubernetes"); got != "v1.36.3" || err != nil {
		t.Errorf("%q, %v, want v1.36.3", got, err)
	}
	if got, err := requiredVersion(mod, "k8s.io/kube"); err == nil {
		t.Errorf("%q for a module that is not required", got)
	}
}

func TestAProcessIsKnownByItsStartToo(t *testing.T) {
	me, err := self()
	if err != nil {
		t.Fatal(err)
	}
	if !me.alive() {
		t.Error("this process counts as gone")
	}
	if other := (pid{ID: me.ID, Start: me.Start + 1}); other.alive() {
		t.Error("a process with this id that started at another time counts as alive")
	}
}

func TestTheSwitchDropsWhatItIsTold(t *testing.T) {
	rules := switchRules([]Drop{{From: []string{"node1"}, To: []string{"node2", "cp"}, Share: 1}, {From: []string{"cp"}, To: []string{"node1"}, Share: 0.05}})
	for _, want := range []string{
		"iifname { node1 } oifname { node2, cp } counter drop",
		"iifname { cp } oifname { node1 } numgen random mod 10000 < 500 counter drop",
	} {
		if !strings.Contains(rules, want) {
			t.Errorf("%q is not in\n%s", want, rules)
		}
	}
}

func TestRefusalsAreCountedByWhoSaysThem(t *testing.T) {
	printed := "09:00:00.000001 eth0  Out IP 198.51.100.11 > 198.51.100.3: ICMP host 10.244.1.200 unreachable, length 68\n" +
		"09:00:00.000002 eth0  Out IP6 2001:db8:51::11 > 2001:db8:51::3: ICMP6, destination unreachable, unreachable address fd00:10:244:1::200, length 88\n" +
		"09:00:00.000003 eth0  In  IP 10.244.2.3.8080 > 198.51.100.11.5559: Flags [R.], seq 0, ack 681966308, win 0, length 0\n" +
		"09:00:00.000004 eth0  In  IP 10.244.2.3.8080 > 198.51.100.11.50026: Flags [R.], seq 0, ack 686257653, win 0, length 0\n" +
		"09:00:00.000005 eth0  Out IP 198.51.100.11 > 198.51.100.1: ICMP host 10.244.1.200 unreachable, length 68\n"
	want := []string{
		"2 from 09:00:00.000001 on: eth0  Out IP 198.51.100.11: ICMP host 10.244.1.200 unreachable",
		"1 from 09:00:00.000002 on: eth0  Out IP6 2001:db8:51::11: ICMP6, destination unreachable, unreachable address fd00:10:244:1::200",
		"2 from 09:00:00.000003 on: eth0  In  IP 10.244.2.3.8080: Flags [R.]",
	}
	if got := refused(printed); !slices.Equal(got, want) {
		t.Errorf("they are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
