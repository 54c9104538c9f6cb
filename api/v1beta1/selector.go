package v1beta1

// A LabelSelector selects objects by their labels; all its terms must hold, and
// one without terms selects everything. It means what a Kubernetes label
// selector means; it is a type of our own so that it has bounds and messages.
type LabelSelector struct {
	// Labels that must be there, with exactly these values.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",message="matchLabels: every key must be a label key, such as app or example.com/zone"
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
	// Requirements on labels.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	MatchExpressions []LabelSelectorRequirement `json:"matchExpressions,omitempty"`
}

// A LabelSelectorRequirement relates one label to a set of values.
// +kubebuilder:validation:XValidation:rule="self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0",message="matchExpressions: operators In and NotIn need values, Exists and DoesNotExist take none",fieldPath=".values"
type LabelSelectorRequirement struct {
	// The label's key.
	// +required
	Key LabelKey `json:"key"`
	// How the label relates to the values.
	// +required
	Operator LabelOperator `json:"operator"`
	// The values, for In and NotIn.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Values []LabelValue `json:"values,omitempty"`
}

// A LabelOperator relates a label to a set of values.
// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
type LabelOperator string

// The operators of Kubernetes label selectors.
const (
	LabelIn           LabelOperator = "In"
	LabelNotIn        LabelOperator = "NotIn"
	LabelExists       LabelOperator = "Exists"
	LabelDoesNotExist LabelOperator = "DoesNotExist"
)

// A LabelKey is the key of a label, with or without a prefix.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=317
// +kubebuilder:validation:XValidation:rule="self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')",message="key must be a label key, such as app or example.com/zone"
type LabelKey string

// A LabelValue is the value of a label; it may be empty.
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",message="a label value has letters, digits, '-', '_' and '.', and starts and ends with a letter or digit"
type LabelValue string

// An ObjectName is the name of an object in Kubernetes.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="a name has lower-case letters, digits, '-' and '.', and starts and ends with a letter or digit"
type ObjectName string

// A NamespaceName is the name of a namespace.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="a namespace has lower-case letters, digits and '-', and starts and ends with a letter or digit"
type NamespaceName string

// A Duration is a length of time such as 90s, 1h30m or 250ms, never negative.
// The digits are bounded so that none overflows.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^(0|([0-9]{1,5}h)?([0-9]{1,7}m)?([0-9]{1,9}([.][0-9]{1,9})?s)?([0-9]{1,9}([.][0-9]{1,6})?ms)?)$')",message="a duration is written like 90s, 1h30m or 250ms, and is not negative"
type Duration string
