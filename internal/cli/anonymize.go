package cli

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/belfrylb/belfry/internal/lb"
)

// A mask replaces names and addresses, each by the same wherever it is.
//
// Of an IP address it replaces bits in the middle: two addresses that have a prefix in
// common have one of the same length in common afterwards, so what was in a subnet or a
// pool still is, and the last bits stay, so a range is as long as it was. What an
// address is good for (loopback, multicast, link-local) does not change.
type mask struct {
	key   []byte
	names map[string]string
	// count is how many names there are of a kind.
	count map[string]int
	// values are those of labels.
	values map[string]string
	macs   map[lb.MAC]lb.MAC
	// bits are those that are replaced by their opposite, by the prefix before them.
	bits map[netip.Prefix]bool
}

func newMask(key []byte) *mask {
	return &mask{
		key: key, names: map[string]string{}, count: map[string]int{}, values: map[string]string{},
		macs: map[lb.MAC]lb.MAC{}, bits: map[netip.Prefix]bool{},
	}
}

// name gives a name of a kind another one.
func (m *mask) name(kind, name string) {
	if name == "" || m.names[name] != "" || wellKnown(name) {
		return
	}
	m.count[kind]++
	m.names[name] = kind + "-" + strconv.Itoa(m.count[kind])
}

// wellKnown reports whether a name tells nothing of whose cluster it is, or may be a
// word of an API.
func wellKnown(name string) bool {
	if _, err := strconv.Atoi(name); err == nil {
		return true
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true // addresses are replaced as such
	}
	return strings.HasPrefix(name, "kube") || strings.HasPrefix(name, "belfry") ||
		slices.Contains([]string{"default", "true", "false", "internal", "external", "linux", "windows", "amd64", "arm64", "cilium-config"}, name)
}

// masked returns which bits of an address are replaced: not those that make it one of a
// class, nor the last ones.
func masked(a netip.Addr) (from, to int) {
	if a.Is4() {
		return 3, 16
	}
	return 16, 48
}

// address replaces an address.
func (m *mask) address(a netip.Addr) netip.Addr {
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() && a.Is4() {
		return a
	}
	body := a.AsSlice()
	if a.IsLinkLocalUnicast() { // it may be made of a hardware address
		copy(body[8:], m.hash(body)[:8])
		out, _ := netip.AddrFromSlice(body)
		return out
	}
	from, to := masked(a)
	out := slices.Clone(body)
	for bit := from; bit < to; bit++ {
		if m.flips(body, bit) {
			out[bit/8] ^= 0x80 >> (bit % 8)
		}
	}
	is, _ := netip.AddrFromSlice(out)
	return is
}

// flips says whether a bit is replaced by its opposite, which depends on those before it.
func (m *mask) flips(body []byte, bit int) bool {
	a, _ := netip.AddrFromSlice(body)
	before := netip.PrefixFrom(a, bit).Masked()
	flips, known := m.bits[before]
	if !known {
		flips = m.hash([]byte(before.String()))[0]&1 == 1
		m.bits[before] = flips
	}
	return flips
}

func (m *mask) hash(of []byte) []byte {
	h := hmac.New(sha256.New, m.key)
	h.Write(of)
	return h.Sum(nil)
}

// fits reports whether addresses are still such that a Service can have them.
func (m *mask) fits(all []netip.Addr) bool {
	return !slices.ContainsFunc(all, func(a netip.Addr) bool {
		is := m.address(a)
		return usable(a) && !usable(is)
	})
}

func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() && (!a.Is4() || a.As4()[0] != 0)
}

// mac replaces a hardware address by one that is administered locally.
func (m *mask) mac(is lb.MAC) lb.MAC {
	other, known := m.macs[is]
	if !known {
		var body [4]byte
		binary.BigEndian.PutUint32(body[:], uint32(len(m.macs)+1))
		other = lb.MAC{2, 0, body[0], body[1], body[2], body[3]}
		m.macs[is] = other
	}
	return other
}

// token is what may be a name, an address, a range or a prefix.
var token = regexp.MustCompile(`[A-Za-z0-9:][A-Za-z0-9._:-]*(?:/\d{1,3}\b)?`)

// text replaces what is to be replaced in a text.
func (m *mask) text(s string) string { return token.ReplaceAllStringFunc(s, m.word) }

// word replaces a token.
func (m *mask) word(s string) string {
	if other, is := m.names[s]; is {
		return other
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		other, err := m.address(p.Addr()).Prefix(p.Bits())
		if err != nil || p.Masked() != p { // an interface's address, or none
			return m.address(p.Addr()).String() + "/" + strconv.Itoa(p.Bits())
		}
		return other.String()
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return m.address(a).String()
	}
	if mac, err := lb.ParseMAC(s); err == nil {
		return m.mac(mac).String()
	}
	// A sentence goes on after it; or it is one of two: FROM-TO, HOST:PORT, NAME.NAMESPACE.
	if last := s[len(s)-1]; last == '.' || last == ':' || last == '-' {
		return m.word(strings.TrimRight(s, s[len(s)-1:])) + s[len(strings.TrimRight(s, s[len(s)-1:])):]
	}
	for _, at := range []string{"/", "-", ":", "."} {
		before, after, two := strings.Cut(s, at)
		if at == ":" {
			i := strings.LastIndex(s, at)
			if two = i >= 0; two {
				before, after = s[:i], s[i+1:]
			}
		}
		if !two || before == "" || after == "" {
			continue
		}
		if was, is := before, m.word(before); is != was {
			return is + at + m.word(after)
		}
		if is := m.word(after); is != after {
			return before + at + is
		}
	}
	return s
}

// value replaces in all strings of a tree, but not in the keys of its maps.
func (m *mask) value(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			switch below, is := v[key].(map[string]any); {
			case is && slices.Contains([]string{"labels", "matchLabels", "selector"}, key):
				m.labels(below)
			case key == "values" && v["operator"] != nil: // of matchExpressions
				label, _ := v["key"].(string)
				values, _ := v[key].([]any)
				for i := range values {
					values[i] = m.label(label, values[i])
				}
			default:
				v[key] = m.value(v[key])
			}
		}
	case []any:
		for i, below := range v {
			v[i] = m.value(below)
		}
	case string:
		return m.text(v)
	}
	return v
}

// labels replaces in the values of labels.
func (m *mask) labels(all map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		all[key] = m.label(key, all[key])
	}
}

// label replaces the value of a label: that of a label that is the cluster's own as a
// whole, and those of Kubernetes as text.
func (m *mask) label(key string, v any) any {
	value, is := v.(string)
	prefix, _, has := strings.Cut(key, "/")
	if !is || has && (strings.HasSuffix(prefix, "k8s.io") || strings.HasSuffix(prefix, "kubernetes.io")) {
		return m.value(v)
	}
	if other, named := m.names[value]; named || value == "" {
		return other
	}
	other, known := m.values[value]
	if !known {
		other = "value-" + strconv.Itoa(len(m.values)+1)
		m.values[value] = other
	}
	return other
}

// log replaces in a log: in the values of JSON, or in lines of text.
func (m *mask) log(text []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		var v map[string]any
		if json.Unmarshal(line, &v) == nil {
			e := json.NewEncoder(&out)
			e.SetEscapeHTML(false)
			if e.Encode(m.value(v)) == nil {
				continue
			}
		}
		out.WriteString(m.text(string(line)))
	}
	return out.Bytes()
}

// seen returns the IP addresses in a tree.
func seen(v any) (all []netip.Addr) {
	switch v := v.(type) {
	case map[string]any:
		for _, below := range v {
			all = append(all, seen(below)...)
		}
	case []any:
		for _, below := range v {
			all = append(all, seen(below)...)
		}
	case string:
		for _, s := range token.FindAllString(v, -1) {
			for _, s := range append(strings.Split(s, "-"), s) {
				s, _, _ = strings.Cut(s, "/")
				if a, err := netip.ParseAddr(s); err == nil {
					all = append(all, a)
				}
			}
		}
	}
	return all
}

// anonymize replaces names and addresses in all of a report.
func (r *bugReport) anonymize(key []byte) {
	var addresses []netip.Addr
	for _, l := range r.lists {
		addresses = append(addresses, seen(l.Items)...)
	}
	m := newMask(key)
	for round := byte(0); !m.fits(addresses); round++ {
		m = newMask(append(slices.Clone(key), round))
	}
	field := func(o any, path ...string) any {
		for _, name := range path {
			of, _ := o.(map[string]any)
			o = of[name]
		}
		return o
	}
	for _, k := range kinds {
		kind := strings.ToLower(k.Kind)
		for _, o := range r.lists[k.resource].Items {
			name, _ := field(o, "metadata", "name").(string)
			namespace, _ := field(o, "metadata", "namespace").(string)
			m.name("namespace", namespace)
			m.name(kind, name)
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(r.lists)) {
		m.value(r.lists[resource].Items)
	}
	for _, texts := range []*map[string][]byte{&r.logs, &r.metrics} {
		masked := map[string][]byte{}
		for _, name := range slices.Sorted(maps.Keys(*texts)) {
			masked[m.text(name)] = m.log((*texts)[name])
		}
		*texts = masked
	}
	for i := range r.notes {
		r.notes[i] = m.text(r.notes[i])
	}
}
