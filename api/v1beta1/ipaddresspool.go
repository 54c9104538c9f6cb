package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// An IPAddressPool holds addresses for Services of type LoadBalancer. Editing
// or deleting one never moves or cuts an address that is in use.
//
// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=belfry,shortName=pool;pools
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ranges",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Auto",type=boolean,JSONPath=`.spec.autoAssign`
// +kubebuilder:printcolumn:name="V4-Assigned",type=integer,JSONPath=`.status.ipv4.assigned`
// +kubebuilder:printcolumn:name="V4-Available",type=integer,JSONPath=`.status.ipv4.available`
// +kubebuilder:printcolumn:name="V6-Assigned",type=integer,JSONPath=`.status.ipv6.assigned`
// +kubebuilder:printcolumn:name="V6-Available",type=integer,JSONPath=`.status.ipv6.available`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Drain",type=boolean,JSONPath=`.spec.drain`,priority=1
// +kubebuilder:printcolumn:name="Strategy",type=string,JSONPath=`.spec.strategy`,priority=1
// +kubebuilder:printcolumn:name="Excluded",type=string,JSONPath=`.spec.excludeAddresses`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAddressPool struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// What the operator wants.
	// +required
	Spec IPAddressPoolSpec `json:"spec"`
	// What Belfry found and did.
	// +optional
	Status IPAddressPoolStatus `json:"status,omitempty"`
}

// An IPAddressPoolList is a list of IPAddressPools.
//
// +kubebuilder:object:root=true
type IPAddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAddressPool `json:"items"`
}

// An IPAddressPoolSpec says which addresses there are, who may have them, and
// how they are given out.
type IPAddressPoolSpec struct {
	// The addresses of the pool: CIDRs, ranges "first-last" and single
	// addresses, IPv4 and IPv6 as you like. Overlaps among them are merged.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	Addresses []AddressRange `json:"addresses"`
	// Addresses that are never handed out, in the same forms.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=128
	ExcludeAddresses []AddressRange `json:"excludeAddresses,omitempty"`
	// Whether Services get addresses of this pool without asking for the pool
	// or the address. Turning it off takes nothing away.
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`
	// Skip the IPv4 addresses that end in .0 and .255, which some old equipment
	// takes for broadcast addresses.
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`
	// Which Services may use the pool. Absent: all of them.
	// +optional
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
	// Whether Services of different namespaces may share an address of this
	// pool; within a namespace they may, by the annotation
	// belfry.dev/allow-shared-ip.
	// +optional
	SharedAcrossNamespaces bool `json:"sharedAcrossNamespaces,omitempty"`
	// What becomes of an address in use that the pool no longer covers.
	// +optional
	// +kubebuilder:default=Keep
	OrphanPolicy OrphanPolicy `json:"orphanPolicy,omitempty"`
	// How a free address is chosen.
	// +optional
	// +kubebuilder:default=LeastRecentlyUsed
	Strategy Strategy `json:"strategy,omitempty"`
	// How long an address stays reserved for the same namespace and name after
	// its Service is deleted.
	// +optional
	// +kubebuilder:default="0s"
	Retention Duration `json:"retention,omitempty"`
	// Hand out nothing new, and keep serving what is in use.
	// +optional
	Drain bool `json:"drain,omitempty"`
}

// An AddressRange is a CIDR such as 192.0.2.0/28, a range such as
// 192.0.2.10-192.0.2.20 (blanks round the '-' are allowed), or one address.
//
// CEL has no order on addresses, but it knows the prefixes that contain one. Of
// two different addresses the last is the higher when it has the first bit set
// in which they differ: its prefix of n bits contains the first address, its
// prefix of n+1 bits does not, nor does it contain the start of the former, where
// that bit is clear. The rule tries every n/n+1, and writes an IPv4 address as an
// IPv6 one to have one list for both.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=96
// +kubebuilder:validation:XValidation:rule=`(self.contains('-') ? isIP(self.substring(0, self.indexOf('-')).trim()) && isIP(self.substring(self.indexOf('-') + 1).trim()) : isIP(self) || isCIDR(self))`,message=`want an address, a CIDR or a range of two addresses joined by '-', IPv4 or IPv6, without zone and not IPv4-mapped`
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self.substring(0, self.indexOf('/')) + (self.contains(':') ? '/128' : '/32')).containsIP(cidr(self).masked().ip())`,message=`a CIDR must have no bits set beyond its prefix length; for a part of a network write a range`
// +kubebuilder:validation:XValidation:rule=`!(self.contains('-') && isIP(self.substring(0, self.indexOf('-')).trim()) && isIP(self.substring(self.indexOf('-') + 1).trim())) || ip(self.substring(0, self.indexOf('-')).trim()).family() == ip(self.substring(self.indexOf('-') + 1).trim()).family()`,message=`both ends of a range must be of the same family`
// +kubebuilder:validation:XValidation:rule=`!(self.contains('-') && isIP(self.substring(0, self.indexOf('-')).trim()) && isIP(self.substring(self.indexOf('-') + 1).trim())) || ip(self.substring(0, self.indexOf('-')).trim()).family() != ip(self.substring(self.indexOf('-') + 1).trim()).family() || [ip((ip(self.substring(self.indexOf('-') + 1).trim()).family() == 4 ? '::' : "") + self.substring(0, self.indexOf('-')).trim())].exists(x, [(ip(self.substring(self.indexOf('-') + 1).trim()).family() == 4 ? '::' : "") + self.substring(self.indexOf('-') + 1).trim()].exists(y, cidr(y + '/128').containsIP(x) || ['/127/128', '/126/127', '/125/126', '/124/125', '/123/124', '/122/123', '/121/122', '/120/121', '/119/120', '/118/119', '/117/118', '/116/117', '/115/116', '/114/115', '/113/114', '/112/113', '/111/112', '/110/111', '/109/110', '/108/109', '/107/108', '/106/107', '/105/106', '/104/105', '/103/104', '/102/103', '/101/102', '/100/101', '/99/100', '/98/99', '/97/98', '/96/97', '/95/96', '/94/95', '/93/94', '/92/93', '/91/92', '/90/91', '/89/90', '/88/89', '/87/88', '/86/87', '/85/86', '/84/85', '/83/84', '/82/83', '/81/82', '/80/81', '/79/80', '/78/79', '/77/78', '/76/77', '/75/76', '/74/75', '/73/74', '/72/73', '/71/72', '/70/71', '/69/70', '/68/69', '/67/68', '/66/67', '/65/66', '/64/65', '/63/64', '/62/63', '/61/62', '/60/61', '/59/60', '/58/59', '/57/58', '/56/57', '/55/56', '/54/55', '/53/54', '/52/53', '/51/52', '/50/51', '/49/50', '/48/49', '/47/48', '/46/47', '/45/46', '/44/45', '/43/44', '/42/43', '/41/42', '/40/41', '/39/40', '/38/39', '/37/38', '/36/37', '/35/36', '/34/35', '/33/34', '/32/33', '/31/32', '/30/31', '/29/30', '/28/29', '/27/28', '/26/27', '/25/26', '/24/25', '/23/24', '/22/23', '/21/22', '/20/21', '/19/20', '/18/19', '/17/18', '/16/17', '/15/16', '/14/15', '/13/14', '/12/13', '/11/12', '/10/11', '/9/10', '/8/9', '/7/8', '/6/7', '/5/6', '/4/5', '/3/4', '/2/3', '/1/2', '/0/1'].exists(n, [cidr(y + n.substring(0, n.lastIndexOf('/')))].exists(s, [cidr(y + n.substring(n.lastIndexOf('/')))].exists(t, s.containsIP(x) && !t.containsIP(x) && !t.containsIP(s.masked().ip()))))))`,message=`the first address of a range must not be above the last`
// +kubebuilder:validation:XValidation:rule=`!(self.contains('-') ? isIP(self.substring(0, self.indexOf('-')).trim()) && isIP(self.substring(self.indexOf('-') + 1).trim()) : isIP(self) || isCIDR(self)) || ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/4', '255.255.255.255/32', '::/80', 'fe80::/9', 'ff00::/8'].all(b, isCIDR(self) ? !cidr(b).containsCIDR(self) && !cidr(self).containsCIDR(b) : isIP(self) ? !cidr(b).containsIP(self) : !cidr(b).containsIP(self.substring(0, self.indexOf('-')).trim()) && !cidr(b).containsIP(self.substring(self.indexOf('-') + 1).trim()))`,message=`must not contain unspecified, loopback, multicast, broadcast, IPv4-mapped or IPv6 link-local addresses`
// +kubebuilder:validation:XValidation:rule=`!(self.contains('-') && isIP(self.substring(0, self.indexOf('-')).trim()) && isIP(self.substring(self.indexOf('-') + 1).trim())) || ip(self.substring(0, self.indexOf('-')).trim()).family() == 6 || ip(self.substring(self.indexOf('-') + 1).trim()).family() == 6 || [127, 224].all(o, int(self.substring(0, self.indexOf('-')).trim().split('.')[0]) >= o || int(self.substring(self.indexOf('-') + 1).trim().split('.')[0]) <= o)`,message=`must not reach across the loopback or multicast addresses`
type AddressRange string

// A ServiceAllocation restricts a pool to some Services, and orders pools.
type ServiceAllocation struct {
	// The pool with the smallest priority is tried first; 0 comes last. Pools
	// of equal priority are tried by name.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Priority int32 `json:"priority,omitempty"`
	// Namespaces whose Services may use the pool, besides those that a
	// namespace selector matches. Both empty: every namespace.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	Namespaces []NamespaceName `json:"namespaces,omitempty"`
	// Selectors of namespaces, any of which may match. One that matches nothing
	// restricts the pool to nothing.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	NamespaceSelectors []LabelSelector `json:"namespaceSelectors,omitempty"`
	// Selectors of Services, any of which may match, within the namespaces
	// above. Empty: every Service.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	ServiceSelectors []LabelSelector `json:"serviceSelectors,omitempty"`
	// The most addresses of this pool that one namespace may have. Absent: no
	// limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	PerNamespaceLimit int32 `json:"perNamespaceLimit,omitempty"`
}

// An OrphanPolicy says what becomes of an address in use that its pool no longer
// covers.
// +kubebuilder:validation:Enum=Keep;Reassign
type OrphanPolicy string

// Orphan policies.
const (
	// OrphanKeep leaves the address with its Service until the Service goes or
	// asks for another.
	OrphanKeep OrphanPolicy = "Keep"
	// OrphanReassign releases it and allocates another.
	OrphanReassign OrphanPolicy = "Reassign"
)

// A Strategy chooses among the free addresses of a pool.
// +kubebuilder:validation:Enum=FirstFree;LeastRecentlyUsed;Hash
type Strategy string

// Strategies.
const (
	// StrategyFirstFree takes the lowest free address.
	StrategyFirstFree Strategy = "FirstFree"
	// StrategyLeastRecentlyUsed takes the address that has been free longest.
	StrategyLeastRecentlyUsed Strategy = "LeastRecentlyUsed"
	// StrategyHash derives the address from the Service's namespace and name.
	StrategyHash Strategy = "Hash"
)

// MaxFreed is the most entries that [IPAddressPoolStatus].Freed may have, MaxOrphans and
// MaxStatusAddresses those of the other lists. They are shorter where they would make the
// status larger than 16 KiB.
const (
	MaxFreed           = 512
	MaxOrphans         = 512
	MaxStatusAddresses = 256
)

// An IPAddressPoolStatus is what Belfry found and did about a pool.
type IPAddressPoolStatus struct {
	// Whether the pool is acted on as written, and why not.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// The addresses that the pool serves, less the excluded ones and those that
	// an older pool has: the fewest prefixes that cover them, as many as 2 KiB have
	// room for. The counts below count all of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Addresses []string `json:"addresses,omitempty"`
	// The IPv4 addresses, counted.
	// +optional
	IPv4 *AddressCount `json:"ipv4,omitempty"`
	// The IPv6 addresses, counted.
	// +optional
	IPv6 *AddressCount `json:"ipv6,omitempty"`
	// Addresses in use that no range of the pool covers any more, lowest first: the first
	// 8 each with a Service that holds it, the rest by block. The counts above count
	// all of them.
	// +optional
	// +listType=map
	// +listMapKey=address
	// +kubebuilder:validation:MaxItems=512
	Orphans []OrphanedAddress `json:"orphans,omitempty"`
	// Addresses that were given back, oldest first: what the strategy LeastRecentlyUsed
	// and the retention remember. Those that are kept for a Service and the last 16 of
	// the others stand each for itself, the rest by block and by ten minutes; as many
	// as 8 KiB have room for.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=512
	Freed []FreedAddress `json:"freed,omitempty"`
}

// An AddressCount counts the addresses of one family of a pool. Counts too
// large for 64 bits stay at the largest value.
type AddressCount struct {
	// Addresses that the pool can hand out.
	// +kubebuilder:validation:Minimum=0
	Total int64 `json:"total"`
	// Addresses of the pool that Services hold, orphans included; a shared one
	// counts once.
	// +kubebuilder:validation:Minimum=0
	Assigned int64 `json:"assigned"`
	// Addresses that a Service could get now.
	// +kubebuilder:validation:Minimum=0
	Available int64 `json:"available"`
	// Addresses that no Service holds and that are kept for the last one.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Reserved int64 `json:"reserved,omitempty"`
	// Addresses in use that no range of the pool covers any more.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Orphaned int64 `json:"orphaned,omitempty"`
}

// An OrphanedAddress is an address in use that its pool no longer covers.
type OrphanedAddress struct {
	// The address, or several of one block as in "198.51.100.1,3,10-19".
	// +kubebuilder:validation:MaxLength=512
	Address string `json:"address"`
	// A Service that holds it, as namespace/name; empty where none is named.
	// +kubebuilder:validation:MaxLength=317
	Service string `json:"service"`
}

// A FreedAddress remembers who held an address last.
type FreedAddress struct {
	// The address, or several of one block as in "198.51.100.1,3,10-19".
	// +kubebuilder:validation:MaxLength=512
	Address string `json:"address"`
	// The Service that held it, as namespace/name; empty when nothing is kept for it.
	// +kubebuilder:validation:MaxLength=317
	Service string `json:"service"`
	// When it was given back.
	Time metav1.Time `json:"time"`
}
