"""The S3 door: Amazon's S3 API over the one namespace.

The path of a request: ``head.read_head`` makes text of bytes, ``signing.authenticate`` says who signed it, ``requests.read_request`` what it asks for, ``keys``
where that is in the tree; then ``conditions`` and ``ranges`` decide what of an object is answered, ``incoming`` takes a body, ``bodies`` and ``documents``
read and write XML. All of these are pure, and whatever is wrong is an ``errors.S3Error``, as are failures of monofs once ``errors.from_monofs`` has named them.
"""
