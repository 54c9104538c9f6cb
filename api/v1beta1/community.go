package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A Community gives names to BGP communities. A name that two objects define
// counts in neither.
//
// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=belfry
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Communities",type=string,JSONPath=`.spec.communities`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Community struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// What the operator wants.
	// +required

	Spec CommunitySpec `json:"spec"`
	// What Belfry found and did.
	// +optional
	Status CommunityStatus `json:"status,omitempty"`
}

// A CommunityList is a list of Community objects.
//
// +kubebuilder:object:root=true
type CommunityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Community `json:"items"`
}

// A CommunitySpec holds the names.
type CommunitySpec struct {
	// The names and what they stand for.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	Communities []CommunityAlias `json:"communities"`
}

// A CommunityAlias gives a name to a community.
type CommunityAlias struct {
	// The name, which begins with a letter.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[A-Za-z]([-A-Za-z0-9._]*[A-Za-z0-9])?$')`,message=`a community's name has letters, digits, '-', '.' and '_', and begins with a letter`
	// +kubebuilder:validation:XValidation:rule=`!(self in ['no-export', 'no-advertise', 'no-peer', 'graceful-shutdown', 'blackhole'])`,message=`a well-known community cannot be given another meaning`
	Name string `json:"name"`
	// What it stands for: a:b, large:a:b:c, or a well-known name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches('^(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,4})$') || self.matches('^large:(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})$') || self in ['no-export', 'no-advertise', 'no-peer', 'graceful-shutdown', 'blackhole']`,message=`want a:b, large:a:b:c or a well-known community`
	// +kubebuilder:validation:XValidation:rule=`(!self.matches('^(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,4})$') || self.split(':').all(n, int(n) <= 65535)) && (!self.matches('^large:(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})$') || self.substring(6).split(':').all(n, int(n) <= 4294967295))`,message=`the numbers of a:b are at most 65535, those of large:a:b:c at most 4294967295`
	Value string `json:"value"`
}

// A CommunityStatus is what Belfry found and did about the names.
type CommunityStatus struct {
	// Whether the object is acted on as written, and why not.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
