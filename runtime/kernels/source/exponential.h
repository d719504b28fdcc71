// Exponentials and what is made of them, for the instruction set `Set`.
#pragma once

namespace {

// e^x = power + power * rest, where power = 2^rint(x / ln 2) and rest is a polynomial of degree 6 that lies within
// 1e-8 of it. For -88 <= x < 88; where 2^n would be below 2^-126, power is 0.
template <class Set>
struct Exponential {
    typename Set::Floats power, rest;

    explicit Exponential(typename Set::Floats x) {
        typename Set::Ints n = Set::nearest(Set::mul(x, Set::all(1.44269504f)));
        typename Set::Floats r = Set::fma(Set::floats(n), Set::all(-0.693147182f), x);
        r = Set::fma(Set::floats(n), Set::all(1.90465421e-9f), r);
        typename Set::Floats p = Set::fma(Set::all(0.00138206896f), r, Set::all(0.0083686756f));
        p = Set::fma(p, r, Set::all(0.0416682661f));
        p = Set::fma(p, r, Set::all(0.166665211f));
        p = Set::fma(p, r, Set::all(0.49999994f));
        rest = Set::fma(p, Set::mul(r, r), r);
        power = Set::power(n);
    }
};

// e^x for x <= 0, within 1.1 ulp down to 2^-126; 0 below e^-87.7, also at minus infinity.
template <class Set>
typename Set::Floats exp(typename Set::Floats x) {
    Exponential<Set> e(Set::max(Set::all(-88.0f), x));
    return Set::fma(e.power, e.rest, e.power);
}

// tanh(x) = (e^2x - 1) / (e^2x + 1) within 3 ulp: without cancellation near 0.
template <class Set>
typename Set::Floats tanh(typename Set::Floats x) {
    Exponential<Set> e(Set::min(Set::all(88.0f), Set::max(Set::all(-88.0f), Set::add(x, x))));
    typename Set::Floats less = Set::fma(e.power, e.rest, Set::add(e.power, Set::all(-1.0f)));
    return Set::div(less, Set::add(less, Set::all(2.0f)));
}

// e^x within e^-88 .. e^88.
template <class Set>
typename Set::Floats bounded_exp(typename Set::Floats x) {
    Exponential<Set> e(Set::min(Set::all(88.0f), Set::max(Set::all(-88.0f), x)));
    return Set::fma(e.power, e.rest, e.power);
}

// 1 / (1 + e^-x), within 3 ulp.
template <class Set>
typename Set::Floats sigmoid(typename Set::Floats x) {
    return Set::div(Set::all(1.0f), Set::add(Set::all(1.0f), bounded_exp<Set>(Set::mul(x, Set::all(-1.0f)))));
}

// log(1 + e^x) = max(x, 0) + 2 atanh(s) with s = e^-|x| / (2 + e^-|x|), within 2 ulp down to 2^-126: no number of it
// cancels. 2 atanh(s) = 2 s + s z Q(z) with z = s^2 up to 1/9, where the polynomial Q lies so near that 5e-9 of it is missing.
template <class Set>
typename Set::Floats softplus(typename Set::Floats x) {
    typename Set::Floats t = exp<Set>(Set::min(x, Set::mul(x, Set::all(-1.0f))));
    typename Set::Floats s = Set::div(t, Set::add(t, Set::all(2.0f))), z = Set::mul(s, s);
    typename Set::Floats q = Set::fma(Set::all(0.28024465f), z, Set::all(0.2799914f));
    q = Set::fma(q, z, Set::all(0.400217f));
    q = Set::fma(q, z, Set::all(0.6666641f));
    return Set::add(Set::max(Set::zero(), x), Set::fma(Set::mul(s, z), q, Set::add(s, s)));
}

// x / (1 + e^-x), within 3 ulp.
template <class Set>
typename Set::Floats silu(typename Set::Floats x) {
    return Set::div(x, Set::add(Set::all(1.0f), bounded_exp<Set>(Set::mul(x, Set::all(-1.0f)))));
}

}  // namespace
