package migrate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
)

// metalLB is what MetalLB is configured by: the objects of its API, and its ConfigMap until
// version 0.12. Its annotations are understood as they are.
var metalLB = Source{
	Name: "metallb", Title: "MetalLB", Groups: []string{"metallb.io", "frrk8s.metallb.io"},
	Namespace: "metallb-system", ConfigMap: "config",
	order: []string{"IPAddressPool", "AddressPool", "L2Advertisement", "Community", "BFDProfile", "BGPPeer", "BGPAdvertisement"},
	told:  []string{"ServiceBGPStatus", "ServiceL2Status", "BGPSessionState", "ConfigurationState", "FRRNodeState"},
	kinds: map[string]func(t *Translation, m Metadata, f *fields){
		"IPAddressPool":    (*Translation).pool,
		"AddressPool":      (*Translation).oldPool,
		"L2Advertisement":  (*Translation).l2Advertisement,
		"Community":        (*Translation).community,
		"BFDProfile":       (*Translation).bfdProfile,
		"BGPPeer":          (*Translation).bgpPeer,
		"BGPAdvertisement": (*Translation).bgpAdvertisement,
	},
	tells: func(t *Translation, o Object) {
		var is struct {
			Node      string `json:"node"`
			Name      string `json:"serviceName"`
			Namespace string `json:"serviceNamespace"`
		}
		if o.Kind == "ServiceL2Status" && json.Unmarshal(o.Status, &is) == nil && is.Node != "" {
			t.announces(lb.ServiceKey{Namespace: is.Namespace, Name: is.Name}, is.Node)
		}
	},
	configMap: func(t *Translation, c ConfigMap) { t.legacy(c.Data["config"]) },
}

// announces notes that a node announces a Service's addresses.
func (t *Translation) announces(key lb.ServiceKey, node string) {
	if !slices.Contains(t.Announcers[key], node) {
		t.Announcers[key] = append(t.Announcers[key], node)
		slices.Sort(t.Announcers[key])
	}
}

func (t *Translation) pool(m Metadata, f *fields) {
	p := &v1beta1.IPAddressPool{}
	p.TypeMeta, p.ObjectMeta = t.meta("IPAddressPool", m)
	f.ranges(p)
	if a := f.part("serviceAllocation"); a.of != nil {
		priority, _ := a.number("priority", 1<<31-1)
		p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{
			Priority: int32(priority), Namespaces: names[v1beta1.NamespaceName](a, "namespaces"),
			NamespaceSelectors: a.selectors("namespaceSelectors"), ServiceSelectors: a.selectors("serviceSelectors"),
		}
		a.rest()
	}
	t.Pools = append(t.Pools, p)
}

// ranges takes what pools of both kinds have.
func (f *fields) ranges(p *v1beta1.IPAddressPool) {
	for i, s := range f.texts("addresses") {
		p.Spec.Addresses = append(p.Spec.Addresses, v1beta1.AddressRange(f.span(fmt.Sprintf("addresses[%d]", i), s)))
	}
	if auto, is := value[bool](f, "autoAssign"); is {
		p.Spec.AutoAssign = &auto
	}
	p.Spec.AvoidBuggyIPs = f.boolean("avoidBuggyIPs")
}

// span writes a range as it is accepted here. MetalLB takes a CIDR with bits beyond its
// length for the whole network.
func (f *fields) span(name, s string) string {
	p, err := netip.ParsePrefix(strings.TrimSpace(s))
	if err != nil || p == p.Masked() {
		return strings.TrimSpace(s)
	}
	f.note(name, fmt.Sprintf("%s becomes %s, which is what MetalLB takes it for", s, p.Masked()))
	return p.Masked().String()
}

// oldPool takes a pool of the time when it said itself how it is announced.
func (t *Translation) oldPool(m Metadata, f *fields) {
	p := &v1beta1.IPAddressPool{}
	p.TypeMeta, p.ObjectMeta = t.meta("IPAddressPool", m)
	f.ranges(p)
	t.Pools = append(t.Pools, p)
	pools := []v1beta1.ObjectName{v1beta1.ObjectName(m.Name)}
	advertisements := f.parts("bgpAdvertisements")
	switch protocol := f.text("protocol"); protocol {
	case "layer2":
		a := &v1beta1.L2Advertisement{Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: pools}}
		a.TypeMeta, a.ObjectMeta = t.meta("L2Advertisement", m)
		t.L2Advertisements = append(t.L2Advertisements, a)
		for _, b := range advertisements {
			b.of = nil
			b.note("", "it counts with protocol bgp alone, and is left out")
		}
	case "bgp":
		if len(advertisements) == 0 {
			advertisements = []*fields{f.below("bgpAdvertisements[0]", map[string]any{})}
		}
		for i, b := range advertisements {
			a := &v1beta1.BGPAdvertisement{Spec: v1beta1.BGPAdvertisementSpec{IPAddressPools: pools}}
			a.TypeMeta, a.ObjectMeta = t.meta("BGPAdvertisement", m)
			if i > 0 {
				a.Name = fmt.Sprintf("%s-%d", m.Name, i+1)
			}
			b.route(&a.Spec)
			b.rest()
			t.BGPAdvertisements = append(t.BGPAdvertisements, a)
		}
	default:
		f.note("protocol", fmt.Sprintf("%q is neither layer2 nor bgp: the pool is announced by neither", protocol))
	}
}

func (t *Translation) l2Advertisement(m Metadata, f *fields) {
	a := &v1beta1.L2Advertisement{}
	a.TypeMeta, a.ObjectMeta = t.meta("L2Advertisement", m)
	a.Spec = v1beta1.L2AdvertisementSpec{
		IPAddressPools: names[v1beta1.ObjectName](f, "ipAddressPools"), IPAddressPoolSelectors: f.selectors("ipAddressPoolSelectors"),
		ServiceSelectors: f.selectors("serviceSelectors"), NodeSelectors: f.selectors("nodeSelectors"),
		Interfaces: names[v1beta1.InterfacePattern](f, "interfaces"),
	}
	t.L2Advertisements = append(t.L2Advertisements, a)
}

func (t *Translation) bgpAdvertisement(m Metadata, f *fields) {
	a := &v1beta1.BGPAdvertisement{}
	a.TypeMeta, a.ObjectMeta = t.meta("BGPAdvertisement", m)
	a.Spec = v1beta1.BGPAdvertisementSpec{
		IPAddressPools: names[v1beta1.ObjectName](f, "ipAddressPools"), IPAddressPoolSelectors: f.selectors("ipAddressPoolSelectors"),
		ServiceSelectors: f.selectors("serviceSelectors"), NodeSelectors: f.selectors("nodeSelectors"),
		Peers: names[v1beta1.ObjectName](f, "peers"),
	}
	f.route(&a.Spec)
	t.BGPAdvertisements = append(t.BGPAdvertisements, a)
}

// route takes what says how routes look.
func (f *fields) route(s *v1beta1.BGPAdvertisementSpec) {
	length, _ := f.number("aggregationLength", 32)
	length6, _ := f.number("aggregationLengthV6", 128)
	s.AggregationLength, s.AggregationLengthV6 = int32(length), int32(length6)
	if n, is := f.number("localPref", 1<<32-1); is && n != 0 { // MetalLB sends none for 0
		s.LocalPref = &n
	}
	s.Communities = names[v1beta1.CommunityOrName](f, "communities")
}

func (t *Translation) community(m Metadata, f *fields) {
	c := &v1beta1.Community{}
	c.TypeMeta, c.ObjectMeta = t.meta("Community", m)
	for _, p := range f.parts("communities") {
		c.Spec.Communities = append(c.Spec.Communities, v1beta1.CommunityAlias{Name: p.text("name"), Value: p.text("value")})
		p.rest()
	}
	t.Communities = append(t.Communities, c)
}

// mostMissed is the greatest detectMultiplier here.
const mostMissed = 50

func (t *Translation) bfdProfile(m Metadata, f *fields) {
	p := &v1beta1.BFDProfile{}
	p.TypeMeta, p.ObjectMeta = t.meta("BFDProfile", m)
	number := func(name string, most int64) int32 { n, _ := f.number(name, most); return int32(n) }
	p.Spec = v1beta1.BFDProfileSpec{
		ReceiveInterval: number("receiveInterval", 60000), TransmitInterval: number("transmitInterval", 60000),
		DetectMultiplier: number("detectMultiplier", 255), PassiveMode: f.boolean("passiveMode"), MinimumTTL: number("minimumTtl", 254),
	}
	if n := p.Spec.DetectMultiplier; n > mostMissed {
		f.note("detectMultiplier", fmt.Sprintf("%d becomes %d, the greatest here", n, mostMissed))
		p.Spec.DetectMultiplier = mostMissed
	}
	if f.boolean("echoMode") {
		f.note("echoMode", "Belfry sends no echo packets: a failure is detected by control packets, at receiveInterval and transmitInterval")
	}
	f.take("echoInterval") // counts with echoMode alone
	t.BFDProfiles = append(t.BFDProfiles, p)
}

func (t *Translation) bgpPeer(m Metadata, f *fields) {
	p := &v1beta1.BGPPeer{}
	p.TypeMeta, p.ObjectMeta = t.meta("BGPPeer", m)
	asn := func(name string) v1beta1.ASN { n, _ := f.number(name, 1<<32-1); return v1beta1.ASN(n) }
	port, _ := f.number("peerPort", 65535)
	p.Spec = v1beta1.BGPPeerSpec{
		MyASN: asn("myASN"), PeerASN: asn("peerASN"), DynamicASN: v1beta1.DynamicASN(f.text("dynamicASN")),
		PeerAddress: v1beta1.PeerAddress(f.text("peerAddress")), Interface: v1beta1.InterfaceName(f.text("interface")), PeerPort: int32(port),
		SourceAddress: v1beta1.PeerAddress(f.text("sourceAddress")), RouterID: f.text("routerID"),
		HoldTime: f.seconds("holdTime"), ConnectTime: f.seconds("connectTime"), BFDProfile: v1beta1.ObjectName(f.text("bfdProfile")),
		EBGPMultiHop: f.boolean("ebgpMultiHop"), VRF: v1beta1.InterfaceName(f.text("vrf")), NodeSelectors: f.selectors("nodeSelectors"),
	}
	s := &p.Spec
	t.keepalive(f, s)
	if s.Interface != "" && s.SourceAddress != "" {
		f.note("sourceAddress", "the session of an interface is between link-local addresses: it is left out")
		s.SourceAddress = ""
	}
	if f.boolean("enableGracefulRestart") {
		s.GracefulRestart = &v1beta1.GracefulRestart{Enabled: true}
	}
	t.families(f, s)
	t.password(m, f, s)
	t.BGPPeers = append(t.BGPPeers, p)
}

// keepalive takes the keepalive time as far as three fit into the hold time, as RFC 4271,
// section 4.4, has it.
func (t *Translation) keepalive(f *fields, s *v1beta1.BGPPeerSpec) {
	s.KeepaliveTime = f.seconds("keepaliveTime")
	keepalive, _ := time.ParseDuration(string(s.KeepaliveTime))
	hold, err := time.ParseDuration(string(s.HoldTime))
	if err != nil {
		hold = 90 * time.Second // the default of both
	}
	if s.KeepaliveTime != "" && (keepalive == 0 || 3*keepalive > hold) {
		f.note("keepaliveTime", fmt.Sprintf("%s is more than a third of the hold time, %s: it is left out, and a third is taken", keepalive, hold))
		s.KeepaliveTime = ""
	}
}

// families takes which families a session has.
func (t *Translation) families(f *fields, s *v1beta1.BGPPeerSpec) {
	both, says := value[bool](f, "dualStackAddressFamily")
	split, old := value[bool](f, "disableMP")
	switch {
	case both:
		s.AddressFamilies = []v1beta1.AddressFamily{v1beta1.IPv4, v1beta1.IPv6}
	case !says && old && !split && s.Interface == "":
		f.note("disableMP", "with FRR, MetalLB before 0.15 sent IPv4 and IPv6 over one session; Belfry sends the family of peerAddress unless addressFamilies says both")
	}
}

// password takes the password of a session, which is in a Secret here.
func (t *Translation) password(m Metadata, f *fields, s *v1beta1.BGPPeerSpec) {
	inline := f.text("password")
	secret := f.part("passwordSecret")
	name, namespace := secret.text("name"), secret.text("namespace")
	secret.rest()
	switch {
	case name != "":
		t.Secrets = append(t.Secrets, Secret{Name: name, From: name, Namespace: cmp.Or(namespace, m.Namespace), Peer: m.Name})
	case inline != "":
		name = m.Name + "-password"
		t.Secrets = append(t.Secrets, Secret{Name: name, Namespace: m.Namespace, Peer: m.Name, ConfigMap: f.object == configMap})
		f.note("password", "passwords are in Secrets alone: it becomes passwordSecret "+name)
	default:
		return
	}
	s.PasswordSecret = &v1beta1.SecretReference{Name: v1beta1.ObjectName(name)}
}
