package migrate

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/ranges"
)

// cilium is what Cilium's pools, its announcements by layer 2 and its BGP control plane are
// configured by.
var cilium = Source{
	Name: "cilium", Title: "Cilium", Groups: []string{"cilium.io"}, shared: true,
	order: []string{
		"CiliumLoadBalancerIPPool", "CiliumL2AnnouncementPolicy", "CiliumBGPPeerConfig", "CiliumBGPAdvertisement", "CiliumBGPClusterConfig",
		"CiliumBGPNodeConfigOverride", "CiliumBGPPeeringPolicy",
	},
	kinds: map[string]func(t *Translation, m Metadata, f *fields){
		"CiliumLoadBalancerIPPool":   (*Translation).ciliumPool,
		"CiliumL2AnnouncementPolicy": (*Translation).ciliumPolicy,
		"CiliumBGPPeerConfig":        (*Translation).ciliumPeerConfig,
		"CiliumBGPAdvertisement":     (*Translation).ciliumAdvertisement,
		"CiliumBGPClusterConfig":     (*Translation).ciliumCluster,
		"CiliumBGPPeeringPolicy": func(_ *Translation, _ Metadata, f *fields) {
			f.of, f.path = nil, ""
			f.note("", "this kind is gone from Cilium: move to CiliumBGPClusterConfig there first; it is left out")
		},
	},
	finish: (*Translation).ciliumPeers,
	annotations: map[string]string{
		"lbipam.cilium.io/ips": "belfry.dev/loadBalancerIPs", "io.cilium/lb-ipam-ips": "belfry.dev/loadBalancerIPs",
		"lbipam.cilium.io/sharing-key": "belfry.dev/allow-shared-ip", "io.cilium/lb-ipam-sharing-key": "belfry.dev/allow-shared-ip",
	},
}

// Labels by which Cilium's selectors of Services know what is no label.
const (
	ciliumNamespace = "io.kubernetes.service.namespace"
	ciliumName      = "io.kubernetes.service.name"
)

func (t *Translation) ciliumPool(m Metadata, f *fields) {
	p := &v1beta1.IPAddressPool{}
	p.TypeMeta, p.ObjectMeta = t.meta("IPAddressPool", m)
	reserved := f.text("allowFirstLastIPs") == "No"
	for _, b := range append(f.parts("blocks"), f.parts("cidrs")...) {
		cidr, start, stop := b.text("cidr"), b.text("start"), b.text("stop")
		b.rest()
		switch {
		case cidr != "":
			span := f.span(strings.TrimPrefix(b.path, "spec.")+".cidr", cidr)
			p.Spec.Addresses = append(p.Spec.Addresses, v1beta1.AddressRange(span))
			if network, err := netip.ParsePrefix(span); reserved && err == nil && network.Bits() < network.Addr().BitLen()-1 {
				p.Spec.ExcludeAddresses = append(p.Spec.ExcludeAddresses, v1beta1.AddressRange(network.Addr().String()), v1beta1.AddressRange(ranges.Of(network).Last.String()))
			}
		case stop != "" && stop != start:
			p.Spec.Addresses = append(p.Spec.Addresses, v1beta1.AddressRange(start+"-"+stop))
		default:
			p.Spec.Addresses = append(p.Spec.Addresses, v1beta1.AddressRange(start))
		}
	}
	p.Spec.Drain = f.boolean("disabled")
	if s, is := f.selector("serviceSelector"); is {
		namespaces, labels := f.restricts("serviceSelector", s)
		a := &v1beta1.ServiceAllocation{Namespaces: namespaces}
		if len(labels.MatchLabels)+len(labels.MatchExpressions) > 0 {
			a.ServiceSelectors = []v1beta1.LabelSelector{labels}
		}
		if len(namespaces)+len(a.ServiceSelectors) > 0 {
			p.Spec.ServiceAllocation = a
		}
	}
	t.Pools = append(t.Pools, p)
}

// selector takes one selector, which need not be there.
func (f *fields) selector(name string) (s v1beta1.LabelSelector, is bool) {
	v, is := f.take(name)
	if !is {
		return s, false
	}
	f.of[name] = []any{v}
	list := f.selectors(name)
	if len(list) == 0 {
		return s, false
	}
	return list[0], true
}

// restricts takes out of a selector of Services the namespaces that it names.
func (f *fields) restricts(name string, s v1beta1.LabelSelector) (namespaces []v1beta1.NamespaceName, labels v1beta1.LabelSelector) {
	for key, v := range s.MatchLabels {
		switch key {
		case ciliumNamespace:
			namespaces = append(namespaces, v1beta1.NamespaceName(v))
		default:
			if labels.MatchLabels == nil {
				labels.MatchLabels = map[string]v1beta1.LabelValue{}
			}
			labels.MatchLabels[key] = v
		}
	}
	for _, e := range s.MatchExpressions {
		if e.Key == ciliumNamespace && e.Operator == v1beta1.LabelIn {
			for _, v := range e.Values {
				namespaces = append(namespaces, v1beta1.NamespaceName(v))
			}
			continue
		}
		labels.MatchExpressions = append(labels.MatchExpressions, e)
	}
	f.unequal(name, labels)
	return namespaces, labels
}

// unequal notes what of a selector selects no label of a Service here.
func (f *fields) unequal(name string, s v1beta1.LabelSelector) {
	asks := func(key string) bool {
		if _, is := s.MatchLabels[key]; is {
			return true
		}
		return slices.ContainsFunc(s.MatchExpressions, func(e v1beta1.LabelSelectorRequirement) bool { return string(e.Key) == key })
	}
	for _, key := range []string{ciliumNamespace, ciliumName} {
		if asks(key) {
			f.note(name, fmt.Sprintf("Services are selected by %s, which is no label of theirs: label them so, or nothing is selected as it was", key))
		}
	}
}

// plainName is an expression that means a name and nothing else.
var plainName = regexp.MustCompile(`^\^?([A-Za-z0-9_-]+)\$?$`)

func (t *Translation) ciliumPolicy(m Metadata, f *fields) {
	a := &v1beta1.L2Advertisement{}
	a.TypeMeta, a.ObjectMeta = t.meta("L2Advertisement", m)
	if s, is := f.selector("serviceSelector"); is {
		f.unequal("serviceSelector", s)
		a.Spec.ServiceSelectors = []v1beta1.LabelSelector{s}
	}
	if s, is := f.selector("nodeSelector"); is {
		a.Spec.NodeSelectors = []v1beta1.LabelSelector{s}
	}
	for i, expression := range f.texts("interfaces") {
		name := plainName.FindStringSubmatch(expression)
		if name == nil {
			f.note(fmt.Sprintf("interfaces[%d]", i), fmt.Sprintf("%q is a regular expression, and Belfry has names and patterns such as eth*: it is left out", expression))
			continue
		}
		if !strings.HasPrefix(expression, "^") || !strings.HasSuffix(expression, "$") {
			f.note(fmt.Sprintf("interfaces[%d]", i), fmt.Sprintf("%q is a regular expression that other names may match, too: it becomes the name %s", expression, name[1]))
		}
		a.Spec.Interfaces = append(a.Spec.Interfaces, v1beta1.InterfacePattern(name[1]))
	}
	if f.boolean("externalIPs") {
		f.note("externalIPs", "Belfry announces no externalIPs of Services: it is left out")
	}
	if !f.boolean("loadBalancerIPs") {
		f.note("loadBalancerIPs", "it is not set, so the policy announces no addresses of Services: no L2Advertisement is made of it")
		return
	}
	t.L2Advertisements = append(t.L2Advertisements, a)
}

// A ciliumConfig is a CiliumBGPPeerConfig, and the labels of the advertisements that it
// selects.
type ciliumConfig struct {
	spec    v1beta1.BGPPeerSpec
	secret  string
	selects []v1beta1.LabelSelector
}

// A ciliumRoute is an advertisement of a CiliumBGPAdvertisement, with that one's labels.
type ciliumRoute struct {
	*v1beta1.BGPAdvertisement
	labels map[string]string
}

// A ciliumBGP is what its objects say before they are joined.
type ciliumBGP struct {
	configs map[string]ciliumConfig
	routes  []ciliumRoute
	// by are the names of the configurations of peers, by our BGPPeer.
	by map[string]string
}

func (t *Translation) ciliumPeerConfig(m Metadata, f *fields) {
	var c ciliumConfig
	seconds := func(p *fields, name string, most int64) v1beta1.Duration {
		n, is := p.number(name, most)
		if !is {
			return ""
		}
		return v1beta1.Duration(fmt.Sprintf("%ds", n))
	}
	timers := f.part("timers")
	c.spec.HoldTime, c.spec.ConnectTime = seconds(timers, "holdTimeSeconds", 65535), seconds(timers, "connectRetryTimeSeconds", 65535)
	if n, is := timers.number("keepAliveTimeSeconds", 65535); is {
		timers.of["keepaliveTime"] = fmt.Sprintf("%ds", n)
		t.keepalive(timers, &c.spec)
	}
	timers.rest()
	transport := f.part("transport")
	port, _ := transport.number("peerPort", 65535)
	c.spec.PeerPort = int32(port)
	transport.rest()
	c.secret = f.text("authSecretRef")
	if g := f.part("gracefulRestart"); g.boolean("enabled") {
		c.spec.GracefulRestart = &v1beta1.GracefulRestart{Enabled: true, RestartTime: seconds(g, "restartTimeSeconds", 4095)}
		g.rest()
	}
	if hops, is := f.number("ebgpMultihop", 255); is && hops > 1 {
		c.spec.EBGPMultiHop = true
		f.note("ebgpMultihop", fmt.Sprintf("%d hops become ebgpMultiHop, which has no number", hops))
	}
	for _, p := range f.parts("families") {
		family := map[string]v1beta1.AddressFamily{"ipv4": v1beta1.IPv4, "ipv6": v1beta1.IPv6}[p.text("afi")]
		if safi := p.text("safi"); family == "" || safi != "unicast" {
			p.of = nil
			p.note("", "Belfry has IPv4 and IPv6 unicast alone: the family is left out")
			continue
		}
		c.spec.AddressFamilies = append(c.spec.AddressFamilies, family)
		if s, is := p.selector("advertisements"); is && !slices.ContainsFunc(c.selects, func(o v1beta1.LabelSelector) bool { return text(o) == text(s) }) {
			if len(c.selects) > 0 {
				p.note("advertisements", "its families select different advertisements, and Belfry has one selection for a session: the session gets them all, of both families")
			}
			c.selects = append(c.selects, s)
		}
		p.rest()
	}
	if len(c.spec.AddressFamilies) == 0 {
		c.spec.AddressFamilies = []v1beta1.AddressFamily{v1beta1.IPv4, v1beta1.IPv6} // Cilium's default
	}
	t.bgp().configs[m.Name] = c
}

// bgp is what Cilium's BGP objects say.
func (t *Translation) bgp() *ciliumBGP {
	if t.cilium == nil {
		t.cilium = &ciliumBGP{configs: map[string]ciliumConfig{}, by: map[string]string{}}
	}
	return t.cilium
}

func (t *Translation) ciliumAdvertisement(m Metadata, f *fields) {
	made := 0
	for _, p := range f.parts("advertisements") {
		service := p.part("service")
		of := p.text("advertisementType")
		if of != "Service" || !slices.Contains(service.texts("addresses"), "LoadBalancerIP") {
			p.of = nil
			p.note("", fmt.Sprintf("Belfry advertises the addresses of Services of type LoadBalancer alone: %s stays with Cilium", cmp.Or(of, "this")))
			continue
		}
		s, selects := p.selector("selector")
		if !selects {
			p.of = nil
			p.note("selector", "it is not set, so nothing is selected: no BGPAdvertisement is made of it")
			continue
		}
		p.unequal("selector", s)
		a := &v1beta1.BGPAdvertisement{}
		a.TypeMeta, a.ObjectMeta = t.meta("BGPAdvertisement", m)
		if made++; made > 1 {
			a.Name = fmt.Sprintf("%s-%d", m.Name, made)
		}
		a.Spec.ServiceSelectors = []v1beta1.LabelSelector{s}
		n, _ := service.number("aggregationLengthIPv4", 32)
		n6, _ := service.number("aggregationLengthIPv6", 128)
		a.Spec.AggregationLength, a.Spec.AggregationLengthV6 = int32(n), int32(n6)
		service.rest()
		attributes := p.part("attributes")
		if n, is := attributes.number("localPreference", 1<<32-1); is {
			a.Spec.LocalPref = &n
		}
		communities := attributes.part("communities")
		for i, c := range communities.texts("standard") {
			a.Spec.Communities = append(a.Spec.Communities, communities.standard(fmt.Sprintf("standard[%d]", i), c))
		}
		for i, c := range communities.texts("wellKnown") {
			a.Spec.Communities = append(a.Spec.Communities, communities.wellKnown(fmt.Sprintf("wellKnown[%d]", i), c))
		}
		for _, c := range communities.texts("large") {
			a.Spec.Communities = append(a.Spec.Communities, v1beta1.CommunityOrName("large:"+c))
		}
		a.Spec.Communities = slices.DeleteFunc(a.Spec.Communities, func(c v1beta1.CommunityOrName) bool { return c == "" })
		communities.rest()
		attributes.rest()
		p.rest()
		t.bgp().routes = append(t.bgp().routes, ciliumRoute{a, m.Labels})
	}
}

// standard writes a community of RFC 1997, which Cilium may write as one number.
func (f *fields) standard(name, c string) v1beta1.CommunityOrName {
	if strings.Contains(c, ":") {
		return v1beta1.CommunityOrName(c)
	}
	n, err := strconv.ParseUint(c, 10, 32)
	if err != nil {
		f.note(name, fmt.Sprintf("%q is no community: it is left out", c))
		return ""
	}
	return v1beta1.CommunityOrName(fmt.Sprintf("%d:%d", n>>16, n&0xffff))
}

// wellKnown are the communities of IANA's registry that Cilium has names for, and Belfry has
// none.
var wellKnown = map[string]string{
	"internet": "0:0", "planned-shut": "65535:0", "accept-own": "65535:1", "route-filter-translated-v4": "65535:2", "route-filter-v4": "65535:3",
	"route-filter-translated-v6": "65535:4", "route-filter-v6": "65535:5", "no-llgr": "65535:7", "no-export-subconfed": "65535:65283",
}

func (f *fields) wellKnown(name, c string) v1beta1.CommunityOrName {
	switch {
	case slices.Contains([]string{"no-export", "no-advertise", "no-peer", "blackhole"}, c):
		return v1beta1.CommunityOrName(c)
	case wellKnown[c] != "":
		return v1beta1.CommunityOrName(wellKnown[c])
	default: // llgr-stale among them, which says that a route is not to be trusted
		f.note(name, fmt.Sprintf("%q has no equal here: it is left out", c))
		return ""
	}
}

// unnamed is what a name of Kubernetes has not.
var unnamed = regexp.MustCompile(`[^a-z0-9.-]+`)

func (t *Translation) ciliumCluster(m Metadata, f *fields) {
	nodes, some := f.selector("nodeSelector")
	for _, instance := range f.parts("bgpInstances") {
		instance.take("name")
		asn, _ := instance.number("localASN", 1<<32-1)
		if asn == 0 {
			instance.note("localASN", "it is not set, and Belfry needs myASN: set it in the BGPPeers that follow")
		}
		if port, is := instance.number("localPort", 65535); is {
			instance.note("localPort", fmt.Sprintf("Belfry dials routers and listens on no port: %d is left out, and routers must not wait to be dialed", port))
		}
		for _, p := range instance.parts("peers") {
			named := p.text("name")
			name := strings.Trim(unnamed.ReplaceAllString(strings.ToLower(named), "-"), "-.")
			if _, twice := t.bgp().by[name]; twice || name == "" {
				name = strings.Trim(m.Name+"-"+name, "-")
			}
			if name != named {
				p.note("name", fmt.Sprintf("%q becomes %s", named, name))
			}
			peer := &v1beta1.BGPPeer{}
			peer.TypeMeta, peer.ObjectMeta = t.meta("BGPPeer", Metadata{Name: name})
			ref := p.part("peerConfigRef")
			ref.take("group")
			ref.take("kind")
			config := ref.text("name")
			ref.rest()
			c, known := t.bgp().configs[config]
			if config != "" && !known {
				p.of = nil
				p.note("peerConfigRef", fmt.Sprintf("there is no CiliumBGPPeerConfig %s, so Cilium does not peer: no BGPPeer is made of it", config))
				continue
			}
			peer.Spec = c.spec
			peer.Spec.MyASN = v1beta1.ASN(asn)
			peer.Spec.PeerAddress = v1beta1.PeerAddress(p.text("peerAddress"))
			switch n, is := p.number("peerASN", 1<<32-1); {
			case is && n > 0:
				peer.Spec.PeerASN = v1beta1.ASN(n)
			default:
				peer.Spec.DynamicASN = v1beta1.DynamicASNExternal
				p.note("peerASN", "any number would do for Cilium; Belfry takes those that differ from myASN (dynamicASN external)")
			}
			discovery := p.part("autoDiscovery")
			switch mode := discovery.text("mode"); mode {
			case "":
			case "Unnumbered":
				peer.Spec.Interface = v1beta1.InterfaceName(discovery.part("unnumbered").text("interface"))
			default:
				discovery.take("defaultGateway")
				p.note("autoDiscovery", fmt.Sprintf("Belfry does not look for its routers by %s: write the address as peerAddress of BGPPeer %s", mode, name))
			}
			discovery.rest()
			if len(c.spec.AddressFamilies) == 0 {
				peer.Spec.AddressFamilies = []v1beta1.AddressFamily{v1beta1.IPv4, v1beta1.IPv6}
			}
			if some {
				peer.Spec.NodeSelectors = []v1beta1.LabelSelector{nodes}
			}
			if c.secret != "" {
				peer.Spec.PasswordSecret = &v1beta1.SecretReference{Name: v1beta1.ObjectName(c.secret)}
				t.Secrets = append(t.Secrets, Secret{Name: c.secret, From: c.secret, Namespace: "kube-system", Peer: name})
			}
			p.rest()
			t.bgp().by[name] = config
			t.BGPPeers = append(t.BGPPeers, peer)
		}
		instance.rest()
	}
}

// ciliumPeers has each advertisement go to the peers whose configuration selects it.
func (t *Translation) ciliumPeers() {
	if t.cilium == nil {
		return
	}
	for _, r := range t.cilium.routes {
		for _, p := range t.BGPPeers {
			if slices.ContainsFunc(t.cilium.configs[t.cilium.by[p.Name]].selects, func(s v1beta1.LabelSelector) bool {
				selector, _ := config.Selector("", s) // what cannot be understood matches nothing
				return selector.Matches(r.labels)
			}) {
				r.Spec.Peers = append(r.Spec.Peers, v1beta1.ObjectName(p.Name))
			}
		}
		if len(r.Spec.Peers) == 0 {
			t.Notes = append(t.Notes, Note{"CiliumBGPAdvertisement/" + r.Name, "", "no peer's configuration selects it: no BGPAdvertisement is made of it"})
			continue
		}
		t.BGPAdvertisements = append(t.BGPAdvertisements, r.BGPAdvertisement)
	}
}
